/** Bytes by their ids: the newest ones, within a bound. */

export const KEPT_BYTES = 8 * 1024 * 1024; // in a tab: the server has all files

export class ByteStore {
  readonly #limit: number;
  readonly #kept = new Map<string, ArrayBuffer>();
  #size = 0;

  /** @param limit In bytes. */
  constructor(limit = KEPT_BYTES) {
    this.#limit = limit;
  }

  get(id: string): ArrayBuffer | undefined {
    return this.#kept.get(id);
  }

  set(id: string, bytes: ArrayBuffer): void {
    this.delete(id);
    this.#kept.set(id, bytes);
    this.#size += bytes.byteLength;
    for (const oldest of this.#kept.keys()) {
      if (this.#size <= this.#limit) break;
      this.delete(oldest);
    }
  }

  delete(id: string): void {
    this.#size -= this.#kept.get(id)?.byteLength ?? 0;
    this.#kept.delete(id);
  }

  clear(): void {
    this.#kept.clear();
    this.#size = 0;
  }
}
