/** Random values that a seed repeats, for tests of rules that hold for all inputs. */

export class Random {
  #state: number;

  constructor(seed: number) {
    this.#state = seed + 0x9e3779b9;
  }

  /** An integer from 0 up to, not including, `end`. */
  below(end: number): number {
    // mulberry32
    this.#state = (this.#state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(this.#state ^ (this.#state >>> 15), this.#state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) % end;
  }

  one<T>(values: readonly T[]): T {
    return values[this.below(values.length)] as T;
  }

  /** Text with characters of 1 to 4 bytes, with quotes, and with half of a surrogate pair. */
  text(most: number): string {
    const units = ["a", "é", "語", "😀", '"', "\\", "\n", "\u0000", "\u2028", "\ud800", "[1,2]"];
    return Array.from({ length: this.below(most + 1) }, () => this.one(units)).join("");
  }

  bytes(most: number): Uint8Array<ArrayBuffer> {
    return Uint8Array.from({ length: this.below(most + 1) }, () => this.below(256));
  }
}
