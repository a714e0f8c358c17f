/** When to renew a token: spaced, with back-off, whatever the server or the application answers. */

const GAP = 5_000; // ms: the shortest time between two attempts
const LONGEST_GAP = 30_000; // ms: half of the minute that is left when the server first warns
const SPREAD = 0.25; // of a gap, at random: the tokens of many clients may end together
const LASTING = 120_000; // ms left: twice the server's warning time, so the token is not ending

export class RenewalSchedule {
  #attempts = 0;
  #lastAt = -Infinity;
  #chance = 0;

  /**
   * Milliseconds until the next attempt; 0: now.
   *
   * @param endsAt When the current token ends, in ms.
   */
  delay(now: number, endsAt: number): number {
    if (this.#lastAt === -Infinity) return 0;
    const backoff = Math.min(LONGEST_GAP, GAP * 2 ** Math.max(0, this.#attempts - 1));
    const left = endsAt - this.#lastAt;
    // A token that ends sooner gets its attempts sooner, but never closer together than the gap.
    const shortest = left > 0 ? Math.max(GAP, Math.min(backoff, left / 2)) : backoff;
    const gap = shortest * (1 + SPREAD * this.#chance);
    // A clock that was set back must not stop the renewal.
    return Math.min(gap, Math.max(0, this.#lastAt + gap - now));
  }

  /** @param chance From 0 up to 1. */
  started(now: number, chance: number): void {
    this.#attempts += 1;
    this.#chance = chance;
    this.#lastAt = now;
  }

  /** A token was accepted that lasts for so many ms. Short-lived tokens do not end the back-off. */
  accepted(lasts: number): void {
    if (lasts >= LASTING) this.#attempts = 0;
  }
}
