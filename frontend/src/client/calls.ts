/** Requests that an application waits for: each resolves to the server's answer. */

import { resendDelay } from "../core/backoff.js";
import { SEND_AGAIN } from "../core/retry-rules.js";
import { outgoingFault } from "../protocol/encode.js";
import type { ClientPayloads, ControlPayloads, ControlRequest, ErrorBody, MessageData } from "../protocol/messages.js";
import type { Ports } from "../ports.js";
import { RequestError } from "./api.js";
import { clientClosed, invalid, userChanged } from "./errors.js";
import type { Answer, Asking } from "./requests.js";

const ROOM_TRIES = 5; // of a message that the server cannot take now; its key is kept 300 s

/** The answer to each request. */
interface Answers {
  get_thread_history: "thread_history";
  room_message: "room_confirmed";
  get_presence: "presence";
  list_threads: "thread_list";
  rename_thread: "thread_changed";
  mark_read: "thread_changed";
  delete_thread: "thread_changed";
  feedback: "thread_changed";
}
type Call = keyof Answers;
type RoomMessage = ClientPayloads["room_message"];

export class Calls {
  readonly #timers: Ports["timers"];
  readonly #asking: Asking;
  /** The messages to rooms that wait before they are sent again. */
  readonly #paused = new Set<(error: ErrorBody) => void>();
  #isClosed = false;

  constructor(ports: Pick<Ports, "timers">, asking: Asking) {
    this.#timers = ports.timers;
    this.#asking = asking;
  }

  /** Asks the server. Rejects with `RequestError`. */
  call<T extends Call>(
    type: T,
    payload: ClientPayloads[T],
    id = this.#asking.uniqueId(),
    data?: MessageData,
  ): Promise<ControlPayloads[Answers[T]]> {
    const message = { type, payload, correlation_id: id };
    const fault = outgoingFault(message);
    if (fault !== null) return Promise.reject(new RequestError(invalid(this.#timers.now(), fault)));
    if (this.#isClosed) return Promise.reject(new RequestError(clientClosed(this.#timers.now())));
    return new Promise((resolve, reject) => {
      this.#asking.ask(id, { ...message, ...(data && { data }) } as unknown as ControlRequest, {
        written: () => undefined,
        answered: (answer: Answer) => {
          if (answer.error !== null) reject(new RequestError(answer.error));
          else resolve(answer.message.payload as unknown as ControlPayloads[Answers[T]]);
        },
      });
    });
  }

  /** Publishes in a room, under one key however often it is sent. Rejects with `RequestError`. */
  async publish({ room, content }: RoomMessage, key: string, data?: MessageData): Promise<ControlPayloads["room_confirmed"]> {
    for (let rejections = 0; ; rejections += 1) {
      try {
        return await this.call("room_message", { room, content }, key, data);
      } catch (error) {
        const isLast = rejections + 1 >= ROOM_TRIES || this.#isClosed;
        if (!(error instanceof RequestError) || !SEND_AGAIN.has(error.body.code) || isLast) throw error;
        await this.#pause(resendDelay(rejections, error.body.retry_after_ms));
      }
    }
  }

  /** Another user is logged in: nothing is sent again. */
  reset(): void {
    this.#failPaused(userChanged(this.#timers.now()));
  }

  close(): void {
    this.#isClosed = true;
    this.#failPaused(clientClosed(this.#timers.now()));
  }

  #failPaused(error: ErrorBody): void {
    for (const fail of this.#paused) fail(error);
  }

  /** Rejects with `RequestError` if the message must not be sent again. */
  #pause(ms: number): Promise<void> {
    return new Promise((resolve, reject) => {
      const fail = (error: ErrorBody): void => {
        this.#paused.delete(fail);
        cancel();
        reject(new RequestError(error));
      };
      const cancel = this.#timers.setTimeout(() => {
        this.#paused.delete(fail);
        resolve();
      }, ms);
      this.#paused.add(fail);
    });
  }
}
