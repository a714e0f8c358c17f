/**
 * The numbers of a session's events: each one once, in order, and acknowledged in time.
 *
 * A merged event stands for all numbers from `seq_from` to `seq`.
 */

export const ACK_EVERY = 32; // numbers, the contract's bound
export const ACK_WITHIN = 1_000; // ms, the contract's bound

/** `next`: take it; `again`: it was taken before; `jump`: something before it is missing. */
export type Place = "next" | "again" | "jump";

export class Delivery {
  /** The last number taken. */
  last = 0;
  #acknowledged = 0;

  /** Events follow after `seq` from here on; it acknowledges like `ack`. */
  startAfter(seq: number): void {
    this.last = seq;
    this.#acknowledged = seq;
  }

  place(seq: number, from = seq): Place {
    if (seq <= this.last) return "again";
    return from === this.last + 1 ? "next" : "jump";
  }

  take(seq: number): void {
    this.last = seq;
  }

  get hasToAcknowledge(): boolean {
    return this.last > this.#acknowledged;
  }

  get isAckDue(): boolean {
    return this.last - this.#acknowledged >= ACK_EVERY;
  }

  /** Returns the number to acknowledge, as acknowledged. */
  acknowledge(): number {
    this.#acknowledged = this.last;
    return this.last;
  }
}
