/** The figures of a connection, as plain values that are replaced, never changed. */

import type { ConnectionStats } from "./snapshot.js";

export class Stats {
  #figures: ConnectionStats = {
    messages_sent: 0,
    messages_received: 0,
    errors_encountered: 0,
    reconnections: 0,
    queued: 0,
  };
  #lostAt: number | null = null;
  #reconnecting = 0;

  get figures(): ConnectionStats {
    return this.#figures;
  }

  sent(now: number): void {
    this.#set({ messages_sent: this.#figures.messages_sent + 1, last_activity: now });
  }

  received(now: number): void {
    this.#set({ messages_received: this.#figures.messages_received + 1, last_activity: now });
  }

  failed(): void {
    this.#set({ errors_encountered: this.#figures.errors_encountered + 1 });
  }

  queued(queued: number): void {
    if (queued !== this.#figures.queued) this.#set({ queued });
  }

  connected(now: number, connection_id: string): void {
    if (this.#lostAt !== null) {
      const reconnections = this.#figures.reconnections + 1;
      this.#reconnecting += now - this.#lostAt;
      this.#set({ reconnections, average_reconnection_ms: this.#reconnecting / reconnections });
    }
    this.#lostAt = null;
    this.#set({ connected_at: now, connection_id });
  }

  /** The line dropped; the time until it stands again counts as one reconnection. */
  lost(now: number): void {
    this.#lostAt ??= now;
    this.#down();
  }

  /** It ended for good, or was ended on purpose: what comes later is no reconnection. */
  ended(): void {
    this.#lostAt = null;
    this.#down();
  }

  #down(): void {
    const { connected_at: _, connection_id: __, ...rest } = this.#figures;
    this.#figures = rest;
  }

  #set(figures: Partial<ConnectionStats>): void {
    this.#figures = { ...this.#figures, ...figures };
  }
}
