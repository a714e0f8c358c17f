// The threads that the user has deleted, while that can be undone: hidden at once, deleted on the
// server later. They are stored for all tabs, so that a page that is closed does not lose them.

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
  #text: string | null = null;
  #all = NONE;

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
    const text = stored(this.#name);
    if (text === undefined || text === this.#text) return;
    this.#text = text;
    this.#all = parsed(text);
  }

  #write(all: readonly Deletion[]): void {
    this.#all = all;
    this.#text = all.length === 0 ? null : JSON.stringify(all);
    try {
      if (this.#text === null) localStorage.removeItem(this.#name);
      else localStorage.setItem(this.#name, this.#text);
    } catch {
      // Without storage they last as long as the page.
    }
    for (const run of this.#listeners) run();
  }
}

/** Undefined if there is no storage. */
function stored(name: string): string | null | undefined {
  try {
    return localStorage.getItem(name);
  } catch {
    return undefined;
  }
}

function parsed(text: string | null): readonly Deletion[] {
  try {
    const all: unknown = JSON.parse(text ?? "[]");
    return Array.isArray(all) ? all.filter(isDeletion) : NONE;
  } catch {
    return NONE;
  }
}

function isDeletion(value: unknown): value is Deletion {
  const { thread, due, tab } = (value ?? {}) as Partial<Record<keyof Deletion, unknown>>;
  return typeof thread === "string" && typeof due === "number" && typeof tab === "string";
}
