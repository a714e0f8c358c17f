/** Who wants to know: of every change, or of messages of a type. */

import type { Handler, Subscribe } from "./api.js";
import type { Timers } from "../ports.js";
import type { ServerMessage } from "../protocol/messages.js";

export class Listeners {
  readonly #timers: Timers;
  readonly #ofChanges = new Set<() => void>();
  readonly #ofMessages = new Map<string, Set<Handler<ServerMessage>>>();

  constructor(timers: Timers) {
    this.#timers = timers;
  }

  readonly add: Subscribe = (
    first: string | (() => void),
    // The overloads say which handler belongs to which type; in here they are all the same.
    handler?: Handler<never>,
  ): (() => void) => {
    // A function of its own for each, so that one that is given twice is two.
    if (typeof first === "function") {
      const listener = (): void => first();
      this.#ofChanges.add(listener);
      return () => void this.#ofChanges.delete(listener);
    }
    const handlers = this.#ofMessages.get(first) ?? new Set();
    this.#ofMessages.set(first, handlers);
    const own = (message: ServerMessage): void => handler?.(message as never);
    handlers.add(own);
    return () => void handlers.delete(own);
  };

  changed(): void {
    for (const listener of [...this.#ofChanges]) this.#run(listener);
  }

  tell(message: ServerMessage): void {
    for (const type of [message.type, "*"]) {
      for (const handler of [...(this.#ofMessages.get(type) ?? [])]) this.#run(() => handler(message));
    }
  }

  clear(): void {
    this.#ofChanges.clear();
    this.#ofMessages.clear();
  }

  /** An application's fault is its own: it is raised, and does not stop a frame from being taken. */
  #run(callback: () => void): void {
    try {
      callback();
    } catch (error) {
      this.#timers.setTimeout(() => {
        throw error;
      }, 0);
    }
  }
}
