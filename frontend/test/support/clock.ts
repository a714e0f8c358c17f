/** Virtual time: `advance` runs the due timers in order, and lets promises settle in between. */

import type { Timers } from "../../src/index.js";

interface Timer {
  readonly at: number;
  readonly order: number;
  readonly run: () => void;
}

export class Clock {
  #now = 1_700_000_000_000;
  #order = 0;
  #timers = new Set<Timer>();

  readonly timers: Timers = {
    now: () => this.#now,
    setTimeout: (run, ms) => {
      this.#order += 1;
      const timer = { at: this.#now + Math.max(0, ms), order: this.#order, run };
      this.#timers.add(timer);
      return () => void this.#timers.delete(timer);
    },
  };

  get now(): number {
    return this.#now;
  }

  /** The number of pending timers. */
  get waiting(): number {
    return this.#timers.size;
  }

  /** The machine sleeps: time passes, and the due timers run late. */
  sleep(ms: number): void {
    this.#now += ms;
  }

  async advance(ms: number): Promise<void> {
    const end = this.#now + ms;
    await settle();
    for (;;) {
      const next = [...this.#timers]
        .filter((timer) => timer.at <= end)
        .sort((a, b) => a.at - b.at || a.order - b.order)[0];
      if (next === undefined) break;
      this.#timers.delete(next);
      this.#now = Math.max(this.#now, next.at);
      next.run();
      await settle();
    }
    this.#now = end;
    await settle();
  }
}

/** Lets promises settle; each grant of a lock needs one more turn of the event loop. */
export async function settle(): Promise<void> {
  for (let turn = 0; turn < 3; turn += 1) await new Promise((resolve) => setImmediate(resolve));
}
