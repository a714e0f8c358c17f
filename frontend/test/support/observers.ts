/** What jsdom lacks of observers: nothing changes its size, and everything is on the screen. */

import { vi } from "vitest";

export function stubObservers(): void {
  vi.stubGlobal("ResizeObserver", class {
    observe(): void {}
    disconnect(): void {}
  });
  vi.stubGlobal("IntersectionObserver", class {
    readonly #changed: (entries: { isIntersecting: boolean }[]) => void;
    constructor(changed: (entries: { isIntersecting: boolean }[]) => void) {
      this.#changed = changed;
    }
    observe(): void {
      this.#changed([{ isIntersecting: true }]);
    }
    disconnect(): void {}
  });
}
