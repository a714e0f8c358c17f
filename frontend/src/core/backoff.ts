/** How long to wait before the next attempt: exponential with full jitter. */

export const LONGEST_WAIT = 30_000; // ms: a server that is back finds its clients within half a minute

/**
 * Anything from nothing to the bound, equally likely: after a restart the clients of a server come
 * back spread over the whole span, not in waves.
 *
 * @param attempt Counts from 1.
 * @param first The bound of the first wait, in ms.
 * @param chance From 0 up to 1.
 */
export function fullJitter(attempt: number, first: number, chance: number): number {
  return Math.floor(chance * Math.min(LONGEST_WAIT, first * 2 ** (attempt - 1)));
}
