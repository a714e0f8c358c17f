/** The events of watched threads, as the view and the open requests of this tab need them. */

import type { RoomEvent } from "../protocol/decode.js";
import type { Run } from "../core/snapshot.js";
import type { View } from "../store/view.js";
import type { Answers } from "./answers.js";
import type { RunStops } from "./run-stops.js";
import type { Threads } from "./threads.js";

export class ThreadEvents {
  readonly #view: View;
  readonly #threads: Threads;
  readonly #stops: RunStops;
  readonly #answers: Answers;

  constructor(view: View, threads: Threads, stops: RunStops, answers: Answers) {
    this.#view = view;
    this.#threads = threads;
    this.#stops = stops;
    this.#answers = answers;
  }

  /**
   * The view shows these runs of a watched thread; null: the thread is not watched any more.
   *
   * @param thread Its name in the view.
   */
  watched(thread: string, runs: ReadonlyMap<string, Run> | null): void {
    if (runs !== null) this.#threads.show(thread);
    this.#view.watch(thread, runs);
    this.#answers.check();
  }

  /** The history of a thread has to be read. */
  reload(threadId: string): void {
    this.#threads.reload(threadId);
  }

  event(thread: string, event: RoomEvent, timestamp: number): void {
    if (event.type === "user_message") {
      this.#view.addQuestion(thread, event.payload, timestamp);
      const { replaces, attachments = [] } = event.payload;
      // Only the history has the names of files.
      if (replaces !== undefined || attachments.length > 0) this.#threads.reload(thread);
    }
    if (event.type === "agent_completed") this.#stops.ended(event.payload.run_id);
  }
}
