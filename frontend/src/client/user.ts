/** Which user the tab belongs to. Nothing of one user is shown to another, or sent as another. */

import type { Ports, Storage } from "../ports.js";
import { tryToStore } from "./storage.js";

export interface UserEvents {
  /** Another user was logged in while this page was open. */
  changed(before: string | null): void;
  /** Before this page was loaded, another user left data in the browser. */
  leftBehind(before: string): void;
  /** The same, in the storage of this tab. */
  leftBehindInTab(): void;
}

export class UserTracker {
  readonly #ports: Pick<Ports, "shared" | "tab">;
  readonly #name: string;
  readonly #events: UserEvents;
  /** Undefined before the first token. */
  #subject: string | null | undefined;

  /** @param name Of the stored user. */
  constructor(ports: Pick<Ports, "shared" | "tab">, name: string, events: UserEvents) {
    this.#ports = ports;
    this.#name = name;
    this.#events = events;
  }

  /** The current token is for this user. Returns whether it is the page's first token. */
  use(subject: string | null): boolean {
    const before = this.#subject;
    if (before === undefined) this.#findOthers(subject);
    else if (before !== subject) this.#events.changed(before);
    this.#subject = subject;
    for (const storage of this.#storages()) tryToStore(storage, this.#name, nameOf(subject));
    return before === undefined;
  }

  #findOthers(subject: string | null): void {
    for (const storage of this.#storages()) {
      const before = storage.get(this.#name);
      if (before === null || before === nameOf(subject)) continue;
      this.#events.leftBehind(before);
      if (storage === this.#ports.tab) this.#events.leftBehindInTab();
    }
  }

  #storages(): readonly Storage[] {
    return [this.#ports.shared, this.#ports.tab];
  }
}

const nameOf = (subject: string | null): string => subject ?? "?";
