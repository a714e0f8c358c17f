/** The open requests of this tab: messages with an answer that are not in the outbox. */

import type { ControlRequest, ErrorBody, ServerMessage } from "../protocol/messages.js";

export type Answer =
  | { readonly error: ErrorBody }
  | { readonly error: null; readonly message: ServerMessage };

export interface RequestCallbacks {
  readonly written: () => void;
  readonly answered: (answer: Answer) => void;
}

/** Sends requests of this tab. */
export interface Asking {
  uniqueId(): string;
  ask(id: string, message: ControlRequest, callbacks: RequestCallbacks): void;
  forget(id: string): void;
}

interface OpenRequest extends RequestCallbacks {
  readonly message: ControlRequest;
}

export class Requests {
  readonly #open = new Map<string, OpenRequest>();
  readonly #closed: (id: string) => void;

  /** @param closed Called when a request is answered or given up. */
  constructor(closed: (id: string) => void) {
    this.#closed = closed;
  }

  add(id: string, message: ControlRequest, callbacks: RequestCallbacks): void {
    this.#open.set(id, { message, ...callbacks });
  }

  has(id: string | undefined): boolean {
    return id !== undefined && this.#open.has(id);
  }

  message(id: string | undefined): ControlRequest | undefined {
    return id === undefined ? undefined : this.#open.get(id)?.message;
  }

  open(): readonly (readonly [string, ControlRequest])[] {
    return [...this.#open].map(([id, { message }]) => [id, message]);
  }

  get isEmpty(): boolean {
    return this.#open.size === 0;
  }

  written(id: string): void {
    const request = this.#open.get(id);
    if (request === undefined) return;
    request.written();
    // No caller waits for the answer to these.
    if (request.message.type === "ping" || request.message.type === "pong") this.forget(id);
  }

  answer(id: string | undefined, answer: Answer): void {
    const request = id === undefined ? undefined : this.#open.get(id);
    if (id === undefined || request === undefined) return;
    this.forget(id);
    request.answered(answer);
  }

  failAll(error: ErrorBody): void {
    for (const id of [...this.#open.keys()]) this.answer(id, { error });
  }

  forget(id: string): void {
    this.#open.delete(id);
    this.#closed(id);
  }
}
