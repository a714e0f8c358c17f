/** At most so many messages in any minute: the server's limit, kept on this side. */

const WINDOW = 60_000; // ms, the contract's

export class RateWindow {
  #limit = Infinity;
  #sent: number[] = [];

  set limit(perMinute: number) {
    this.#limit = perMinute;
  }

  /** How long the next message has to wait, in ms; 0: it may go, and counts as gone. */
  take(now: number): number {
    this.#sent = this.#sent.filter((at) => at > now - WINDOW);
    const oldest = this.#sent[this.#sent.length - this.#limit];
    if (oldest !== undefined) return oldest + WINDOW - now;
    // Without a limit there is nothing to remember.
    if (this.#limit !== Infinity) this.#sent.push(now);
    return 0;
  }
}
