/** The statistics of a connection. The value is replaced on each change, never modified. */

import type { ClientMessage, ServerMessage } from "../protocol/messages.js";
import { BoundedMap } from "./bounded-map.js";
import type { ConnectionStats, Transport } from "./snapshot.js";

/** What an application sends; the rest are acknowledgements, pings and requests. */
const SENT: ReadonlySet<ClientMessage["type"]> = new Set(["user_message", "agent_request", "room_message", "answer"]);
const REMEMBERED = 1_000; // keys of sent messages: more than are unconfirmed at any time

/** Messages of agents and of rooms; the rest confirm, answer, or concern the connection. */
const isReceived = (message: ServerMessage): boolean =>
  "seq" in message ? message.type !== "message_confirmed" : message.type === "room_event";

export class Stats {
  #stats: ConnectionStats = {
    messages_sent: 0,
    messages_received: 0,
    errors_encountered: 0,
    reconnections: 0,
    queued: 0,
  };
  readonly #sent = new BoundedMap<string, true>(REMEMBERED);
  #lostAt: number | null = null;
  #reconnecting = 0;

  get value(): ConnectionStats {
    return this.#stats;
  }

  /** A frame was sent. A message that is sent again under its key counts once. */
  sent({ type, correlation_id = "" }: ClientMessage, now: number): void {
    const isNew = SENT.has(type) && !this.#sent.has(correlation_id);
    if (isNew) this.#sent.set(correlation_id, true);
    this.#set({ messages_sent: this.#stats.messages_sent + (isNew ? 1 : 0), last_activity: now });
  }

  /** A frame arrived. */
  received(now: number): void {
    this.#set({ last_activity: now });
  }

  /** A message arrived, for the first time. */
  message(message: ServerMessage): void {
    if (message.type === "error") this.failed();
    else if (isReceived(message)) this.#set({ messages_received: this.#stats.messages_received + 1 });
  }

  failed(): void {
    this.#set({ errors_encountered: this.#stats.errors_encountered + 1 });
  }

  queued(queued: number): void {
    if (queued !== this.#stats.queued) this.#set({ queued });
  }

  connected(now: number, connection_id: string, transport: Transport): void {
    if (this.#lostAt !== null) {
      const reconnections = this.#stats.reconnections + 1;
      this.#reconnecting += now - this.#lostAt;
      this.#set({ reconnections, average_reconnection_ms: this.#reconnecting / reconnections });
    }
    this.#lostAt = null;
    this.#set({ connected_at: now, connection_id, transport });
  }

  /** The connection was lost; the time until the next one counts as one reconnection. */
  lost(now: number): void {
    this.#lostAt ??= now;
    this.#down();
  }

  /**
   * There is no connection, and no attempt to get one.
   *
   * @param isWanted The application ended it: the next one does not count as a reconnection.
   */
  stopped(isWanted: boolean): void {
    if (isWanted) this.#lostAt = null;
    this.#down();
  }

  #down(): void {
    const { connected_at: _, connection_id: __, transport: ___, ...rest } = this.#stats;
    this.#stats = rest;
  }

  #set(change: Partial<ConnectionStats>): void {
    this.#stats = { ...this.#stats, ...change };
  }
}
