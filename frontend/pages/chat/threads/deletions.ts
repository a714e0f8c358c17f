// The threads that the user has deleted, while that can be undone: hidden at once, deleted on the
// server later. They are stored for all tabs, so that a page that is closed does not lose them.

import { local, readStored, store } from "../../shared/storage.ts";
import { newThreadId } from "./address.ts";

export interface Deletion {
  readonly thread: string;
  /** Milliseconds since 1970: then it can be undone no longer. */
  readonly due: number;
  /** The tab in which the user deleted it. */
  readonly tab: string;
}

const NONE: readonly Deletion[] = [];

/** The id of this tab. */
export const TAB = newThreadId();

export class Deletions {
  readonly #name: string;
  readonly #listeners = new Set<() => void>();
  #all = NONE;
  #isStored = true;

  constructor(user: string) {
    this.#name = `netra.deleting.${user}`;
    this.#read();
  }

  /** The same array until something changes. */
  readonly all = (): readonly Deletion[] => this.#all;

  readonly subscribe = (run: () => void): (() => void) => {
    const onStorage = (event: StorageEvent) => {
      if (event.key !== null && event.key !== this.#name) return;
      this.#read();
      run();
    };
    this.#listeners.add(run);
    addEventListener("storage", onStorage);
    return () => {
      this.#listeners.delete(run);
      removeEventListener("storage", onStorage);
    };
  };

  /** Adds a deletion of this tab, or changes its time. */
  set(thread: string, due: number): void {
    this.#read();
    this.#write([...this.#without(thread), { thread, due, tab: TAB }]);
  }

  remove(thread: string): void {
    this.#read();
    this.#write(this.#without(thread));
  }

  #without(thread: string): readonly Deletion[] {
    return this.#all.filter((deletion) => deletion.thread !== thread);
  }

  #read(): void {
    const stored = readStored(local, this.#name);
    const all = Array.isArray(stored) ? stored.filter(isDeletion) : NONE;
    if (!this.#isStored || JSON.stringify(all) === JSON.stringify(this.#all)) return;
    this.#all = all;
  }

  #write(all: readonly Deletion[]): void {
    this.#all = all;
    // Without storage they last as long as the page.
    this.#isStored = store(local, this.#name, all.length === 0 ? null : all);
    for (const run of this.#listeners) run();
  }
}

function isDeletion(value: unknown): value is Deletion {
  const { thread, due, tab } = (value ?? {}) as Partial<Record<keyof Deletion, unknown>>;
  return typeof thread === "string" && typeof due === "number" && typeof tab === "string";
}
