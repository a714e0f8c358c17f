/** Applies the updates of the connection to one tab: its view, its open messages and its requests. */

import type { Update } from "../core/updates.js";
import type { ErrorBody, ServerMessage, Verdict } from "../protocol/messages.js";
import type { Outcome, View } from "../store/view.js";
import type { Answers } from "./answers.js";
import type { Requests } from "./requests.js";
import type { Rooms } from "./rooms.js";
import type { RunStops } from "./run-stops.js";

export interface UpdatesOwner {
  /** Whether every message concerns this tab, because no other tab shares the connection. */
  isAlone(): boolean;
  /** Whether this tab made a correlation id. */
  isOwnId(id: string): boolean;
  isShown(threadId: string): boolean;
  settled(key: string, ok: boolean, error: ErrorBody | null): void;
  connected(verdict: Verdict): void;
  /** A message of the server, for any tab. */
  received(message: ServerMessage): void;
  /** The history of a thread has changed. */
  reload(threadId: string): void;
  /** A message that concerns this tab. */
  message(message: ServerMessage): void;
  changed(): void;
}

export class Updates {
  readonly #view: View;
  readonly #requests: Requests;
  readonly #stops: RunStops;
  readonly #answers: Answers;
  readonly #rooms: Rooms;
  readonly #owner: UpdatesOwner;

  constructor(
    view: View,
    requests: Requests,
    stops: RunStops,
    answers: Answers,
    rooms: Rooms,
    owner: UpdatesOwner,
  ) {
    this.#view = view;
    this.#requests = requests;
    this.#stops = stops;
    this.#answers = answers;
    this.#rooms = rooms;
    this.#owner = owner;
  }

  apply(update: Update): Outcome {
    if (update.kind === "room" || update.kind === "room_state") {
      this.#rooms.apply(update);
      return "applied";
    }
    const outcome = this.#view.apply(update);
    if (update.kind === "settled") this.#owner.settled(update.message.key, update.ok, update.error);
    if (update.kind === "message" && outcome === "applied") this.#dispatch(update.message);
    else this.#owner.changed();
    return outcome;
  }

  #dispatch(message: ServerMessage): void {
    const id = message.correlation_id;
    const isAnswer = this.#requests.has(id);
    if (message.type === "thread_history" && isAnswer) {
      const request = this.#requests.message(id);
      const isNewest = request?.type === "get_thread_history" && request.payload.before === undefined;
      this.#view.addHistory(message.payload, isNewest);
    }
    if (message.type === "thread_changed" && message.payload.change === "deleted") {
      this.#view.drop(message.payload.thread_id);
    }
    this.#owner.received(message);
    this.#owner.changed();
    this.#answers.check();
    if (message.type === "agent_answered") this.#answers.closed(message.payload);
    if (message.type === "agent_completed") this.#stops.ended(message.payload.run_id);
    if (message.type === "connection_established") this.#owner.connected(message.payload.resume.verdict);
    if (message.type === "error") this.#requests.answer(id, { error: message.payload });
    else if (!("seq" in message)) this.#requests.answer(id, { error: null, message });
    if (message.type === "message_confirmed" && this.#view.replaces(id)) this.#owner.reload(message.payload.thread_id);
    // The caller of a failed request has its error; no other handler needs it.
    if (message.type === "error" && isAnswer) return;
    if (isAnswer || this.#concerns(message)) this.#owner.message(message);
  }

  /** Whether a message belongs to the threads of this tab, or answers one of its own messages. */
  #concerns(message: ServerMessage): boolean {
    const id = message.correlation_id;
    if (this.#owner.isAlone() || (id !== undefined && this.#owner.isOwnId(id))) return true;
    // Each tab shows the threads, after a change by any tab.
    if (!("seq" in message)) return id === undefined || message.type === "thread_changed";
    const thread = this.#view.run(message.payload.run_id)?.thread_id;
    return thread == null || this.#owner.isShown(thread);
  }
}
