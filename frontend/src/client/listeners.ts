/** The application's callbacks: for changes of the snapshot, and for messages by type. */

import type { Timers } from "../ports.js";
import type { ServerMessage } from "../protocol/messages.js";
import type { Handler, Subscribe } from "./api.js";

export class Listeners {
  readonly #timers: Timers;
  readonly #changes = new Set<() => void>();
  readonly #messages = new Map<string, Set<Handler<ServerMessage>>>();

  constructor(timers: Timers) {
    this.#timers = timers;
  }

  readonly add: Subscribe = (
    first: string | (() => void),
    // The overloads of `Subscribe` state which handler belongs to which type.
    handler?: Handler<never>,
  ): (() => void) => {
    // Wrapped in a new function each time, so that a callback can be subscribed twice.
    if (typeof first === "function") {
      const listener = (): void => first();
      this.#changes.add(listener);
      return () => void this.#changes.delete(listener);
    }
    const handlers = this.#messages.get(first) ?? new Set();
    this.#messages.set(first, handlers);
    const own = (message: ServerMessage): void => handler?.(message as never);
    handlers.add(own);
    return () => void handlers.delete(own);
  };

  changed(): void {
    for (const listener of [...this.#changes]) runCallback(this.#timers, listener);
  }

  message(message: ServerMessage): void {
    for (const type of [message.type, "*"]) {
      for (const handler of [...(this.#messages.get(type) ?? [])]) runCallback(this.#timers, () => handler(message));
    }
  }

  clear(): void {
    this.#changes.clear();
    this.#messages.clear();
  }
}

/** Calls back. An exception of the callback is thrown later, so that it does not interrupt the client. */
export function runCallback(timers: Timers, callback: () => void): void {
  try {
    callback();
  } catch (error) {
    timers.setTimeout(() => {
      throw error;
    }, 0);
  }
}
