/** What survives a reload: the session with its last number, and the messages not yet confirmed. */

import { isObject } from "../protocol/check.js";
import type { Cancel, Ports, Storage } from "../ports.js";
import { readEntries, type Entry } from "../core/outbox.js";

export interface Position {
  readonly session: string;
  readonly last: number;
}

export class Store {
  readonly #storage: Storage;
  readonly #name: string;
  #position: Position | null = null;

  constructor(storage: Storage, name: string) {
    this.#storage = storage;
    this.#name = name;
    this.#position = readPosition(storage.get(`${name}:session`));
  }

  get position(): Position | null {
    return this.#position;
  }

  set position(position: Position | null) {
    this.#position = position;
    if (position === null) this.#storage.remove(`${this.#name}:session`);
    else this.#write("session", position);
  }

  loadOutbox(): Entry[] {
    return readEntries(this.#storage.get(`${this.#name}:outbox`));
  }

  /** False where the browser has no room for it: then it is kept until the page goes. */
  saveOutbox(entries: readonly Entry[]): boolean {
    if (entries.length > 0) return this.#write("outbox", entries);
    this.#storage.remove(`${this.#name}:outbox`);
    return true;
  }

  drop(): void {
    this.position = null;
    this.#storage.remove(`${this.#name}:outbox`);
  }

  /**
   * Says that this page has the session, until the page goes. A tab that was duplicated has a copy
   * of its storage: it finds the mark, and begins a session of its own instead of taking this one.
   */
  claim(ports: Ports): Cancel {
    const name = `${this.#name}:taken`;
    if (this.#storage.get(name) !== null) this.position = null;
    const mark = (): void => this.#storage.set(name, "1");
    const unmark = (): void => this.#storage.remove(name);
    mark();
    const cancels = [ports.onPage("hide", unmark), ports.onPage("show", mark)];
    return () => {
      for (const cancel of cancels) cancel();
      unmark();
    };
  }

  #write(what: string, value: unknown): boolean {
    try {
      this.#storage.set(`${this.#name}:${what}`, JSON.stringify(value));
      return true;
    } catch {
      return false;
    }
  }
}

function readPosition(text: string | null): Position | null {
  if (text === null) return null;
  try {
    const value: unknown = JSON.parse(text);
    if (!isObject(value)) return null;
    const { session, last } = value;
    if (typeof session !== "string" || session === "") return null;
    return Number.isSafeInteger(last) && (last as number) >= 0
      ? { session, last: last as number }
      : null;
  } catch {
    return null;
  }
}
