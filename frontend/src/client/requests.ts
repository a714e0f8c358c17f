/** What has an answer and no outbox: requests of this tab that are open. */

import type { Control } from "../connection/connection.js";
import type { ErrorBody, ServerMessage } from "../protocol/messages.js";

export type Answer =
  | { readonly error: ErrorBody }
  | { readonly error: null; readonly message: ServerMessage };

export interface Hooks {
  readonly written: () => void;
  readonly answered: (answer: Answer) => void;
}

interface Request extends Hooks {
  readonly message: Control;
}

export class Requests {
  readonly #open = new Map<string, Request>();
  readonly #forgotten: (id: string) => void;

  /** @param forgotten Told of each request that is over. */
  constructor(forgotten: (id: string) => void) {
    this.#forgotten = forgotten;
  }

  add(id: string, message: Control, hooks: Hooks): void {
    this.#open.set(id, { message, ...hooks });
  }

  has(id: string | undefined): boolean {
    return id !== undefined && this.#open.has(id);
  }

  open(): readonly (readonly [string, Control])[] {
    return [...this.#open].map(([id, { message }]) => [id, message]);
  }

  written(id: string): void {
    const request = this.#open.get(id);
    if (request === undefined) return;
    request.written();
    // Nobody waits for an answer to these.
    if (request.message.type === "ping" || request.message.type === "pong") this.forget(id);
  }

  answer(id: string | undefined, answer: Answer): void {
    const request = id === undefined ? undefined : this.#open.get(id);
    if (id === undefined || request === undefined) return;
    this.forget(id);
    request.answered(answer);
  }

  answerAll(answer: Answer): void {
    for (const id of [...this.#open.keys()]) this.answer(id, answer);
  }

  forget(id: string): void {
    this.#open.delete(id);
    this.#forgotten(id);
  }
}
