/** Composes the snapshot, with the same arrays as before for what has not changed. */

import type { ChatMessage, ConnectionState, Role, Run, Snapshot } from "../core/snapshot.js";
import type { RoomState } from "../core/rooms.js";
import type { ThreadList } from "../core/thread-list.js";
import type { ErrorBody } from "../protocol/messages.js";
import type { View } from "../store/view.js";

export interface SnapshotParts {
  readonly state: ConnectionState;
  readonly lastError: ErrorBody | null;
  readonly role: Role;
  readonly threadId: string;
  /** The threads whose messages are shown. */
  readonly shown: ReadonlySet<string>;
  readonly rooms: ReadonlyMap<string, RoomState>;
  readonly threads: ThreadList;
  /** Messages that no outbox has accepted yet. */
  readonly unaccepted: number;
}

export class SnapshotComposer {
  readonly #view: View;
  #version = -1;
  #shown: ReadonlySet<string> | null = null;
  #messages: readonly ChatMessage[] = [];
  #runs: readonly Run[] = [];

  constructor(view: View) {
    this.#view = view;
  }

  compose({ state, lastError, role, threadId, shown, rooms, threads, unaccepted }: SnapshotParts): Snapshot {
    if (this.#version !== this.#view.version || this.#shown !== shown) {
      this.#version = this.#view.version;
      this.#shown = shown;
      this.#messages = this.#view.messages(shown);
      this.#runs = this.#view.runs(shown);
    }
    const queued = state.stats.queued + unaccepted;
    return {
      status: state.status,
      isConnected: state.status === "CONNECTED",
      isReconnecting: state.status === "RECONNECTING",
      config: state.config,
      connectionStats: unaccepted === 0 ? state.stats : { ...state.stats, queued },
      lastError,
      messages: this.#messages,
      runs: this.#runs,
      queued,
      retry: state.retry,
      session: state.session,
      tokenEndsAt: state.tokenEndsAt,
      clockOffset: state.clockOffset,
      role,
      threadId,
      rooms,
      threads,
    };
  }
}
