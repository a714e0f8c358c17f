/** Delays before the next attempt: exponential, with full jitter where many clients retry at once. */

export const LONGEST_WAIT = 30_000; // ms: clients are back within half a minute of the server
const FIRST_RESEND = 1_000; // ms, where the server states no delay
const SHORTEST_RESEND = 250; // ms, whatever the server states: an answer must not drive a loop

/**
 * A delay from 0 to the bound, uniformly distributed: after a restart the clients of a server
 * reconnect spread over the whole span, not in waves.
 *
 * @param attempt Counts from 1.
 * @param first The bound of the first delay, in ms.
 * @param random From 0 up to 1.
 */
export function fullJitter(attempt: number, first: number, random: number): number {
  return Math.floor(random * Math.min(LONGEST_WAIT, first * 2 ** (attempt - 1)));
}

const AT_ONCE = 3; // of an action that is spaced

/**
 * Spaces an action that a server's answers may drive: the first ones are due at once, later ones back
 * off up to `LONGEST_WAIT`, and after a calm of that length it begins anew.
 */
export class Spacing {
  #times = 0;
  #lastAt = -Infinity;

  /** Milliseconds until the action is due. */
  delay(now: number): number {
    if (now - this.#lastAt >= LONGEST_WAIT) this.#times = 0;
    if (this.#times < AT_ONCE) return 0;
    const gap = Math.min(LONGEST_WAIT, FIRST_RESEND * 2 ** (this.#times - AT_ONCE));
    return Math.max(0, this.#lastAt + gap - now);
  }

  /** The action is done now. */
  done(now: number): void {
    this.#times += 1;
    this.#lastAt = now;
  }
}

/**
 * The delay in ms before a rejected message is sent again. The server's `retry_after_ms` is a lower
 * bound; a message that is rejected repeatedly backs off even if the server asks for no delay.
 *
 * @param rejections How often the message was rejected before this time.
 */
export function resendDelay(rejections: number, retryAfter: number | undefined): number {
  if (rejections === 0) return Math.max(SHORTEST_RESEND, retryAfter ?? FIRST_RESEND);
  return Math.max(retryAfter ?? 0, Math.min(LONGEST_WAIT, FIRST_RESEND * 2 ** (rejections - 1)));
}
