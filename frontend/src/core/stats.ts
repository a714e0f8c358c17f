/** The statistics of a connection. The value is replaced on each change, never modified. */

import type { ConnectionStats } from "./snapshot.js";

export class Stats {
  #stats: ConnectionStats = {
    messages_sent: 0,
    messages_received: 0,
    errors_encountered: 0,
    reconnections: 0,
    queued: 0,
  };
  #lostAt: number | null = null;
  #reconnecting = 0;

  get value(): ConnectionStats {
    return this.#stats;
  }

  sent(now: number): void {
    this.#set({ messages_sent: this.#stats.messages_sent + 1, last_activity: now });
  }

  received(now: number): void {
    this.#set({ messages_received: this.#stats.messages_received + 1, last_activity: now });
  }

  failed(): void {
    this.#set({ errors_encountered: this.#stats.errors_encountered + 1 });
  }

  queued(queued: number): void {
    if (queued !== this.#stats.queued) this.#set({ queued });
  }

  connected(now: number, connection_id: string): void {
    if (this.#lostAt !== null) {
      const reconnections = this.#stats.reconnections + 1;
      this.#reconnecting += now - this.#lostAt;
      this.#set({ reconnections, average_reconnection_ms: this.#reconnecting / reconnections });
    }
    this.#lostAt = null;
    this.#set({ connected_at: now, connection_id });
  }

  /** The connection was lost; the time until the next one counts as one reconnection. */
  lost(now: number): void {
    this.#lostAt ??= now;
    this.#down();
  }

  /** The connection ended on purpose: the next one does not count as a reconnection. */
  ended(): void {
    this.#lostAt = null;
    this.#down();
  }

  #down(): void {
    const { connected_at: _, connection_id: __, ...rest } = this.#stats;
    this.#stats = rest;
  }

  #set(change: Partial<ConnectionStats>): void {
    this.#stats = { ...this.#stats, ...change };
  }
}
