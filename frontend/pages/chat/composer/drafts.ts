// Unsent texts with their uploaded files, by user and thread. Each tab stores its own under its own name,
// so that two tabs with the same thread do not overwrite each other. A draft stays stored if the tab is
// closed or crashes; the next tab that opens the thread takes it over.

import type { ListedFile } from "../../../src/index.ts";
import { local, readStored, session, store } from "../../shared/storage.ts";
import { dataName, dataOf, onForgotten } from "../../shared/userData.ts";

const TAB = "netra.tab";
const LOCK = "netra.tab ";
const KEPT = 50; // drafts in this browser, the newest ones
const DAYS = 30; // that a draft is kept
const DAY = 86_400_000; // ms

/** A file of a draft. */
export interface DraftFile extends ListedFile {
  /** When it was uploaded: milliseconds since 1970. */
  readonly at: number;
}

export interface Draft {
  readonly text: string;
  readonly files: readonly DraftFile[];
}

interface Stored extends Draft {
  readonly name: string;
  readonly user: string;
  readonly thread: string;
  readonly tab: string;
  /** Milliseconds since 1970. */
  readonly at: number;
}

const NONE: Draft = { text: "", files: [] };

type Locks = Pick<LockManager, "request">;

export class Drafts {
  readonly #locks: Locks | undefined;
  readonly #drafts = new Map<string, Draft>();
  readonly #listeners = new Set<() => void>();
  #tab: string;

  /** @param locks Absent without https: then it is unknown which tabs are open. */
  constructor(locks: Locks | undefined) {
    this.#locks = locks;
    const stored = readStored(session, TAB);
    this.#tab = typeof stored === "string" ? stored : this.#newTab();
    this.#hold().catch(() => undefined); // Refused locks are as none.
    onForgotten(() => {
      this.#drafts.clear();
      for (const run of this.#listeners) run();
    });
  }

  readonly subscribe = (run: () => void): (() => void) => {
    this.#listeners.add(run);
    return () => this.#listeners.delete(run);
  };

  read(user: string, thread: string): string {
    return this.#find(user, thread).text;
  }

  write(user: string, thread: string, text: string): void {
    this.#put(user, thread, { ...this.#find(user, thread), text });
  }

  files(user: string, thread: string): readonly DraftFile[] {
    return this.#find(user, thread).files;
  }

  writeFiles(user: string, thread: string, files: readonly DraftFile[]): void {
    this.#put(user, thread, { ...this.#find(user, thread), files });
  }

  /** Takes the newest draft of a thread that a closed tab has left, if this tab has none. */
  async takeOver(user: string, thread: string): Promise<void> {
    const others = drafts().filter((one) => one.user === user && one.thread === thread && one.tab !== this.#tab);
    const hasOwn = () => !isEmpty(this.#find(user, thread));
    for (const { name, tab, text, files } of others) {
      if (hasOwn()) return;
      if (!(await this.#isClosed(tab))) continue;
      if (hasOwn()) return;
      store(local, name, null);
      this.#put(user, thread, { text, files });
      return;
    }
  }

  #find(user: string, thread: string): Draft {
    const name = nameOf(user, thread, this.#tab);
    return this.#drafts.get(name) ?? storedAt(name) ?? NONE;
  }

  #put(user: string, thread: string, draft: Draft): void {
    const name = nameOf(user, thread, this.#tab);
    const isNew = !isEmpty(draft) && storedAt(name) === null;
    if (isEmpty(draft)) this.#drafts.delete(name);
    else this.#drafts.set(name, draft);
    store(local, name, isEmpty(draft) ? null : { ...draft, at: Date.now() });
    if (isNew) prune();
    for (const run of this.#listeners) run();
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
      for (const { user, thread, tab, text, files } of drafts()) {
        if (tab === original) this.#put(user, thread, { text, files });
      }
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

const isEmpty = ({ text, files }: Draft) => text === "" && files.length === 0;

function storedAt(name: string): (Draft & { readonly at: number }) | null {
  const value = readStored(local, name) as { text?: unknown; files?: unknown; at?: unknown } | null;
  if (typeof value?.text !== "string" || typeof value.at !== "number") return null;
  // Drafts of earlier versions have no files.
  const files = Array.isArray(value.files) ? (value.files as readonly DraftFile[]) : [];
  return { text: value.text, files, at: value.at };
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
