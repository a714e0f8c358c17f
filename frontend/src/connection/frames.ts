/** Handles the frames of an established line: events in order, control frames by their type. */

import { localError } from "../core/retry-rules.js";
import type { Update } from "../core/updates.js";
import type { Unreadable } from "../protocol/decode.js";
import type { ErrorBody, ServerMessage, ServerMessageOf } from "../protocol/messages.js";
import type { Receiver } from "./receiver.js";
import type { Renewal } from "./renewal.js";
import type { Sender } from "./sender.js";

export interface FramesOwner {
  now(): number;
  /** Whether the line still exists: a handler of the application may have disconnected. */
  hasLine(): boolean;
  update(update: Update): void;
  /** The connection delivers something. */
  progress(): void;
  /** The server will close the connection; an idle client opens the next one after so many ms. */
  draining(reconnectAfter: number): void;
  /** An error of a frame. */
  failed(error: ErrorBody): void;
  /**
   * An error that the server sent.
   *
   * @param explainsClose Whether the server closes the connection because of it.
   */
  serverError(error: ErrorBody, explainsClose: boolean): void;
  outOfOrder(fault: string): void;
}

type Event = Extract<ServerMessage, { readonly seq: number }>;

export class FrameHandler {
  readonly #sender: Sender;
  readonly #receiver: Receiver;
  readonly #renewal: Renewal;
  readonly #owner: FramesOwner;

  constructor(sender: Sender, receiver: Receiver, renewal: Renewal, owner: FramesOwner) {
    this.#sender = sender;
    this.#receiver = receiver;
    this.#renewal = renewal;
    this.#owner = owner;
  }

  message(message: ServerMessage): void {
    if ("seq" in message) {
      this.#event(message);
      return;
    }
    switch (message.type) {
      case "heartbeat":
        this.#owner.progress();
        break;
      case "auth_expiring":
        this.#renewal.expiring(this.#endOf(message));
        break;
      case "auth_ok":
        this.#renewal.accepted(message.correlation_id, this.#endOf(message));
        break;
      case "server_draining":
        this.#owner.draining(message.payload.reconnect_after_ms);
        this.#sender.drain();
        break;
      case "error":
        // The answer was settled before this rejection arrived, because its question was closed.
        if (this.#sender.isLate(message.correlation_id)) return;
        this.#error(message);
        break;
      case "connection_established":
      case "pong":
        break;
      default:
        // The answers to requests; the same messages without an id are unasked.
        if (message.correlation_id !== undefined) this.#sender.forget(message.correlation_id);
    }
    this.#owner.update({ kind: "message", message });
  }

  unreadable({ fault, seq, seq_from, isUnknownType }: Unreadable): void {
    if (isUnknownType !== true) {
      const help = "Reload the page to get its newest version.";
      this.#owner.failed(localError(this.#owner.now(), "BAD_SERVER_FRAME", fault, help));
    }
    // A numbered event counts as received: a replay would only repeat it.
    if (seq === null || this.#receiver.place(seq, seq_from) !== "next") return;
    this.#receiver.take(seq);
    this.#owner.update({ kind: "skipped", seq, from: seq_from ?? seq });
    this.#acknowledge();
  }

  #event(message: Event): void {
    const place = this.#receiver.place(message.seq, message.seq_from);
    if (place === "duplicate") return;
    if (place === "gap") {
      const expected = this.#receiver.last + 1;
      this.#owner.outOfOrder(`expected event ${expected}, got ${message.seq_from ?? message.seq}`);
      return;
    }
    this.#receiver.take(message.seq);
    this.#owner.progress();
    if (message.type === "message_confirmed" && message.correlation_id !== undefined) {
      this.#sender.confirm(message.correlation_id);
    }
    if (message.type === "agent_answered") this.#sender.forgetAnswers(message.payload.question_id);
    if (message.type === "agent_completed") this.#sender.forgetStops(message.payload.run_id);
    // Passed on before it is acknowledged: the server may drop an acknowledged event.
    this.#owner.update({ kind: "message", message });
    this.#acknowledge();
  }

  #acknowledge(): void {
    if (this.#owner.hasLine()) this.#receiver.acknowledge();
  }

  #error({ correlation_id: key, payload: error }: ServerMessageOf<"error">): void {
    // The error of a request is for its caller; it is no error of the connection.
    if (key !== undefined && this.#sender.forget(key)) return;
    this.#owner.serverError(error, key === undefined && !error.recoverable);
    if (key !== undefined) this.#sender.reject(key, error);
  }

  /** When a token ends, in this clock's ms: the clocks of server and client may differ. */
  #endOf({ payload, timestamp }: ServerMessageOf<"auth_expiring" | "auth_ok">): number {
    return this.#owner.now() + (payload.expires_at - timestamp) * 1000;
  }
}
