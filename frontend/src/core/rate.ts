/** The server's rate limit, kept by the client: at most `limit` messages in any minute. */

const WINDOW = 60_000; // ms: docs/protocol.md, Limits

export class RateWindow {
  #limit = Infinity;
  #sent: number[] = [];

  set limit(perMinute: number) {
    this.#limit = perMinute;
  }

  /** Milliseconds that the next message has to wait; 0: it may be sent, and is counted as sent. */
  take(now: number): number {
    this.#sent = this.#sent.filter((at) => at > now - WINDOW);
    const oldest = this.#sent[this.#sent.length - this.#limit];
    if (oldest !== undefined) return oldest + WINDOW - now;
    // Without a limit no time has to be remembered.
    if (this.#limit !== Infinity) this.#sent.push(now);
    return 0;
  }
}
