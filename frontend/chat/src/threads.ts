// The list of conversations. It is stored in the browser, for each user; the messages come from the
// server's history.

export interface Thread {
  readonly id: string;
  readonly title: string;
  /** Milliseconds since 1970, of the last message sent. */
  readonly at: number;
}

const MAX_THREADS = 200; // the oldest is removed from the list; its history stays on the server
const NONE: readonly Thread[] = [];

const nameOf = (user: string) => `netra.threads.${user}`;

export class Threads {
  readonly #name: string;
  readonly #listeners = new Set<() => void>();
  #text: string | null = null;
  #list: readonly Thread[] = NONE;

  constructor(user: string) {
    this.#name = nameOf(user);
  }

  /** The threads, the last used one first; the same value until they change. */
  readonly list = (): readonly Thread[] => {
    const text = this.#read();
    if (text !== this.#text) {
      this.#text = text;
      this.#list = parse(text);
    }
    return this.#list;
  };

  readonly subscribe = (run: () => void): (() => void) => {
    const listen = (event: StorageEvent) => {
      if (event.key === this.#name) run();
    };
    addEventListener("storage", listen);
    this.#listeners.add(run);
    return () => {
      removeEventListener("storage", listen);
      this.#listeners.delete(run);
    };
  };

  has(id: string): boolean {
    return this.list().some((thread) => thread.id === id);
  }

  /** Put a thread first; its title is that of its first message. */
  touch(id: string, title: string, at: number): void {
    const known = this.list().find((thread) => thread.id === id);
    const others = this.list().filter((thread) => thread.id !== id);
    this.#write([{ id, title: known?.title ?? title, at }, ...others].slice(0, MAX_THREADS));
  }

  remove(id: string): void {
    this.#write(this.list().filter((thread) => thread.id !== id));
  }

  #read(): string | null {
    try {
      return localStorage.getItem(this.#name);
    } catch {
      return this.#text;
    }
  }

  #write(list: readonly Thread[]): void {
    this.#list = list;
    this.#text = JSON.stringify(list);
    try {
      localStorage.setItem(this.#name, this.#text);
    } catch {
      // Without storage the list lasts as long as the page.
    }
    for (const run of this.#listeners) run();
  }
}

function parse(text: string | null): readonly Thread[] {
  try {
    const found: unknown = JSON.parse(text ?? "[]");
    return Array.isArray(found) ? found.filter(isThread) : NONE;
  } catch {
    return NONE;
  }
}

function isThread(value: unknown): value is Thread {
  const thread = value as Partial<Thread> | null;
  return (
    typeof thread?.id === "string" && typeof thread.title === "string" && typeof thread.at === "number"
  );
}

// The open thread is in the page's address, so that a reload and the back button work.

const ID = /^[A-Za-z0-9_-]{1,64}$/;

export function threadInAddress(): string | null {
  const id = location.hash.replace(/^#\/?/, "");
  return ID.test(id) ? id : null;
}

export const addressOf = (id: string) => `#/${id}`;

export function newThreadId(): string {
  const bytes = crypto.getRandomValues(new Uint8Array(12));
  return `t-${Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("")}`;
}
