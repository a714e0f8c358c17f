/** When to try to connect again: back-off with jitter, not before the server allows it. */

import { fullJitter } from "../core/backoff.js";
import type { Retry } from "../core/snapshot.js";
import type { Cancel, Ports } from "../ports.js";

const EARLY_EVERY = 1_000; // ms between attempts that the user or an event of the page brings forward
export const SHORTEST_GAP = 250; // ms between any two attempts: an answer must not drive a loop

export interface RetryOptions {
  readonly maxReconnectAttempts: number;
  readonly reconnectInterval: number;
}

export class RetryTimer {
  readonly #ports: Pick<Ports, "timers" | "random">;
  readonly #options: RetryOptions;
  #failures = 0;
  #startedAt = 0;
  #notBefore = 0;
  #retry: Retry | null = null;
  #run: () => void = () => undefined;
  #cancel: Cancel | null = null;

  constructor(ports: Pick<Ports, "timers" | "random">, options: RetryOptions) {
    this.#ports = ports;
    this.#options = options;
  }

  /** The attempt that is waiting, or null. */
  get retry(): Retry | null {
    return this.#retry;
  }

  get hasFailed(): boolean {
    return this.#failures > 0;
  }

  /** An attempt begins. */
  started(): void {
    this.cancel();
    this.#startedAt = this.#ports.timers.now();
  }

  connected(): void {
    this.#notBefore = 0;
  }

  /** The connection delivered something: the next failure counts as the first. */
  reset(): void {
    this.#failures = 0;
  }

  /** Allows no automatic attempt for so many ms. */
  postpone(ms: number): void {
    this.#notBefore = this.#ports.timers.now() + ms;
  }

  /**
   * Counts a failure and plans the next attempt.
   *
   * @param atLeast The shortest delay, in ms.
   * @returns False if all attempts are used up.
   */
  plan(atLeast: number, run: () => void): boolean {
    this.cancel();
    this.#failures += 1;
    if (this.#failures > this.#options.maxReconnectAttempts) return false;
    const now = this.#ports.timers.now();
    this.#notBefore = Math.max(this.#notBefore, now + atLeast);
    const jitter = fullJitter(this.#failures, this.#options.reconnectInterval, this.#ports.random());
    const delay = Math.max(jitter, this.#notBefore - now, Math.min(SHORTEST_GAP, this.#startedAt + SHORTEST_GAP - now));
    this.#run = run;
    this.#schedule(now, delay);
    return true;
  }

  /** Brings the waiting attempt forward as far as allowed. Returns whether an attempt waits. */
  bringForward(): boolean {
    const now = this.#ports.timers.now();
    if (this.#retry === null) return false;
    const at = Math.max(now, this.#retry.earliest);
    if (at < this.#retry.at) this.#schedule(now, at - now);
    return true;
  }

  #schedule(now: number, delay: number): void {
    this.#cancel?.();
    const at = now + delay;
    const earliest = Math.min(at, Math.max(this.#notBefore, this.#startedAt + EARLY_EVERY));
    this.#retry = { at, delay_ms: delay, attempt: this.#failures, earliest };
    this.#cancel = this.#ports.timers.setTimeout(this.#run, delay);
  }

  cancel(): void {
    this.#cancel?.();
    this.#cancel = null;
    this.#retry = null;
  }
}
