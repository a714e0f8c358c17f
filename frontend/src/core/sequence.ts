/**
 * The numbers of a session's events: which event is next, and when to acknowledge.
 *
 * A merged event covers all numbers from `seq_from` to `seq`.
 */

export const ACK_EVERY = 32; // numbers: docs/protocol.md, Limits
export const ACK_WITHIN = 1_000; // ms: docs/protocol.md, Limits

/** `next`: process it; `duplicate`: it was processed before; `gap`: an earlier event is missing. */
export type Place = "next" | "duplicate" | "gap";

export class EventSequence {
  #last = 0;
  #acknowledged = 0;

  /** The last number processed. */
  get last(): number {
    return this.#last;
  }

  /** The next event follows `seq`; everything up to it counts as acknowledged. */
  startAfter(seq: number): void {
    this.#last = seq;
    this.#acknowledged = seq;
  }

  place(seq: number, from = seq): Place {
    if (seq <= this.#last) return "duplicate";
    return from === this.#last + 1 ? "next" : "gap";
  }

  take(seq: number): void {
    this.#last = seq;
  }

  get hasToAcknowledge(): boolean {
    return this.#last > this.#acknowledged;
  }

  get isAckDue(): boolean {
    return this.#last - this.#acknowledged >= ACK_EVERY;
  }

  /** Returns the number to acknowledge, and counts it as acknowledged. */
  acknowledge(): number {
    this.#acknowledged = this.#last;
    return this.#last;
  }
}
