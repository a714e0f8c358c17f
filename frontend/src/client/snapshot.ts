/** Composes the snapshot, with the same arrays as before for what has not changed. */

import type { ChatMessage, ConnectionState, Outline, Role, Run, Snapshot } from "../core/snapshot.js";
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
  #outline: Outline = { messages: [], runs: [] };
  #lists: Lists;

  constructor(view: View) {
    this.#view = view;
    this.#lists = new Lists(view, this.#outline, view.writing);
  }

  compose({ state, lastError, role, threadId, shown, rooms, threads, unaccepted }: SnapshotParts): Snapshot {
    const view = this.#view;
    if (this.#version !== view.version || this.#shown !== shown) {
      this.#version = view.version;
      this.#shown = shown;
      this.#outline = { messages: view.messages(shown), runs: view.runs(shown) };
    }
    if (this.#lists.outline !== this.#outline || this.#lists.writing !== view.writing) {
      this.#lists = new Lists(view, this.#outline, view.writing);
    }
    const lists = this.#lists;
    const queued = state.stats.queued + unaccepted;
    return {
      status: state.status,
      isConnected: state.status === "CONNECTED",
      isReconnecting: state.status === "RECONNECTING",
      config: state.config,
      connectionStats: unaccepted === 0 ? state.stats : { ...state.stats, queued },
      lastError,
      get messages() {
        return lists.messages;
      },
      get runs() {
        return lists.runs;
      },
      outline: lists.outline,
      writing: lists.writing,
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

/** The messages and runs of one snapshot. A delta costs the same however many they are, until they are read. */
class Lists {
  readonly #view: View;
  #messages: readonly ChatMessage[] | null = null;
  #runs: readonly Run[] | null = null;

  constructor(
    view: View,
    readonly outline: Outline,
    readonly writing: ReadonlyMap<string, Run>,
  ) {
    this.#view = view;
  }

  get messages(): readonly ChatMessage[] {
    const { writing, outline } = this;
    if (writing.size === 0) return outline.messages;
    this.#messages ??= outline.messages.map((entry) => {
      const run = entry.role === "agent" && entry.run_id !== null ? writing.get(entry.run_id) : undefined;
      return run === undefined || entry.role === "user" ? entry : this.#view.withText(entry, run);
    });
    return this.#messages;
  }

  get runs(): readonly Run[] {
    const { writing, outline } = this;
    if (writing.size === 0) return outline.runs;
    this.#runs ??= outline.runs.map((run) => writing.get(run.run_id) ?? run);
    return this.#runs;
  }
}
