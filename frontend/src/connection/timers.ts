/** Timers with names: setting a timer again replaces it, and all can be cancelled at once. */

import type { Cancel, Timers } from "../ports.js";

export class NamedTimers {
  readonly #timers: Timers;
  readonly #set = new Map<string, Cancel>();

  constructor(timers: Timers) {
    this.#timers = timers;
  }

  /** Milliseconds since 1970. */
  now(): number {
    return this.#timers.now();
  }

  has(name: string): boolean {
    return this.#set.has(name);
  }

  set(name: string, ms: number, run: () => void): void {
    this.cancel(name);
    const expired = (): void => {
      this.#set.delete(name);
      run();
    };
    this.#set.set(name, this.#timers.setTimeout(expired, ms));
  }

  cancel(name: string): void {
    this.#set.get(name)?.();
    this.#set.delete(name);
  }

  cancelAll(): void {
    for (const cancel of this.#set.values()) cancel();
    this.#set.clear();
  }
}
