/** Timers with names: setting one again puts it off, and all of them can be cancelled at once. */

import type { Cancel, Timers } from "../ports.js";

export class Alarms {
  readonly #timers: Timers;
  readonly #set = new Map<string, Cancel>();

  constructor(timers: Timers) {
    this.#timers = timers;
  }

  has(name: string): boolean {
    return this.#set.has(name);
  }

  set(name: string, ms: number, run: () => void): void {
    this.cancel(name);
    const ring = (): void => {
      this.#set.delete(name);
      run();
    };
    this.#set.set(name, this.#timers.setTimeout(ring, ms));
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
