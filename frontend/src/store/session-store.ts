/** What survives a reload: the session with its last event number, and the unconfirmed messages. */

import { isObject } from "../protocol/check.js";
import type { Cancel, Ports, Storage } from "../ports.js";
import { readMessages, type OutboxMessage } from "../core/outbox.js";

export interface Position {
  readonly session: string;
  readonly last: number;
}

export class SessionStore {
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

  loadOutbox(): OutboxMessage[] {
    return readMessages(this.#storage.get(`${this.#name}:outbox`));
  }

  /** False if the browser has no room: then the messages last as long as the page. */
  saveOutbox(messages: readonly OutboxMessage[]): boolean {
    if (messages.length > 0) return this.#write("outbox", messages);
    this.#storage.remove(`${this.#name}:outbox`);
    return true;
  }

  drop(): void {
    this.position = null;
    this.#storage.remove(`${this.#name}:outbox`);
  }

  /**
   * Marks the session as used by this page until the page is closed. A duplicated tab has a copy of
   * the tab's storage: it finds the mark, and begins a new session instead of taking this one over.
   */
  claim(ports: Ports): Cancel {
    const name = `${this.#name}:taken`;
    if (this.#storage.get(name) !== null) this.position = null;
    const mark = (): void => void this.#write("taken", 1);
    const unmark = (): void => this.#storage.remove(name);
    mark();
    const cancels = [ports.onPage("hide", unmark), ports.onPage("show", mark)];
    return () => {
      for (const cancel of cancels) cancel();
      unmark();
    };
  }

  #write(suffix: string, value: unknown): boolean {
    try {
      this.#storage.set(`${this.#name}:${suffix}`, JSON.stringify(value));
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
