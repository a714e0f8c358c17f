// Unsent texts, by user and thread. Each tab stores its own under its own name, so that two tabs with
// the same thread do not overwrite each other. A text stays stored if the tab is closed or crashes; the
// next tab that opens the thread takes it over.

import { local, readStored, session, store } from "../../shared/storage.ts";
import { dataName, dataOf, onForgotten } from "../../shared/userData.ts";

const TAB = "netra.tab";
const LOCK = "netra.tab ";
const KEPT = 50; // drafts in this browser, the newest ones
const DAYS = 30; // that a draft is kept
const DAY = 86_400_000; // ms

interface Stored {
  readonly name: string;
  readonly user: string;
  readonly thread: string;
  readonly tab: string;
  readonly text: string;
  /** Milliseconds since 1970. */
  readonly at: number;
}

type Locks = Pick<LockManager, "request">;

export class Drafts {
  readonly #locks: Locks | undefined;
  readonly #texts = new Map<string, string>();
  readonly #listeners = new Set<() => void>();
  #tab: string;

  /** @param locks Absent without https: then it is unknown which tabs are open. */
  constructor(locks: Locks | undefined) {
    this.#locks = locks;
    const stored = readStored(session, TAB);
    this.#tab = typeof stored === "string" ? stored : this.#newTab();
    this.#hold().catch(() => undefined); // Refused locks are as none.
    onForgotten(() => {
      this.#texts.clear();
      for (const run of this.#listeners) run();
    });
  }

  readonly subscribe = (run: () => void): (() => void) => {
    this.#listeners.add(run);
    return () => this.#listeners.delete(run);
  };

  read(user: string, thread: string): string {
    const name = nameOf(user, thread, this.#tab);
    return this.#texts.get(name) ?? storedAt(name)?.text ?? "";
  }

  write(user: string, thread: string, text: string): void {
    const name = nameOf(user, thread, this.#tab);
    const isNew = text !== "" && storedAt(name) === null;
    if (text === "") this.#texts.delete(name);
    else this.#texts.set(name, text);
    store(local, name, text === "" ? null : { text, at: Date.now() });
    if (isNew) prune();
    for (const run of this.#listeners) run();
  }

  /** Takes the newest draft of a thread that a closed tab has left, if this tab has none. */
  async takeOver(user: string, thread: string): Promise<void> {
    const others = drafts().filter((one) => one.user === user && one.thread === thread && one.tab !== this.#tab);
    for (const { name, tab, text } of others) {
      if (this.read(user, thread) !== "") return;
      if (!(await this.#isClosed(tab))) continue;
      if (this.read(user, thread) !== "") return;
      store(local, name, null);
      this.write(user, thread, text);
      return;
    }
  }

  #newTab(): string {
    const bytes = crypto.getRandomValues(new Uint8Array(9));
    const tab = Array.from(bytes, (byte) => byte.toString(36)).join("");
    store(session, TAB, tab);
    return tab;
  }

  /** Holds the lock of this tab while it is open. A duplicated tab begins with the name of its original. */
  async #hold(): Promise<void> {
    const forever = new Promise<never>(() => undefined);
    await this.#locks?.request(LOCK + this.#tab, { ifAvailable: true }, (lock) => {
      if (lock !== null) return forever;
      const original = this.#tab;
      this.#tab = this.#newTab();
      for (const { user, thread, tab, text } of drafts()) if (tab === original) this.write(user, thread, text);
      void this.#locks?.request(LOCK + this.#tab, () => forever);
      return undefined;
    });
  }

  async #isClosed(tab: string): Promise<boolean> {
    if (this.#locks === undefined) return false;
    return this.#locks.request(LOCK + tab, { ifAvailable: true }, (lock) => lock !== null).catch(() => false);
  }
}

const nameOf = (user: string, thread: string, tab: string) => dataName("draft", user, thread, tab);

function storedAt(name: string): { readonly text: string; readonly at: number } | null {
  const value = readStored(local, name) as { text?: unknown; at?: unknown } | null;
  if (typeof value?.text !== "string" || typeof value.at !== "number") return null;
  return { text: value.text, at: value.at };
}

/** The stored drafts, the newest first. */
function drafts(): readonly Stored[] {
  return dataOf("draft")
    .flatMap(({ name, user, more: [thread, tab] }): Stored[] => {
      const value = storedAt(name);
      return thread === undefined || tab === undefined || value === null ? [] : [{ name, user, thread, tab, ...value }];
    })
    .sort((a, b) => b.at - a.at);
}

function prune(): void {
  const oldest = Date.now() - DAYS * DAY;
  drafts().forEach(({ name, at }, index) => {
    if (index >= KEPT || at < oldest) store(local, name, null);
  });
}
