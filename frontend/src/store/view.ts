/**
 * What a tab shows: messages and runs, derived from the updates of the connection.
 *
 * Updates arrive in the order in which they happened. A tab without the connection may miss some,
 * because it was opened later or was suspended: `apply` returns `missed`, and the leader's state
 * replaces the tab's own.
 */

import { framePayload } from "../protocol/encode.js";
import type { ErrorBody, HistoryMessage, ServerMessage, ServerMessageOf } from "../protocol/messages.js";
import { ByteStore } from "../core/byte-store.js";
import { withPage, type Page } from "../core/history.js";
import type { OutboxMessage } from "../core/outbox.js";
import { afterEvent, afterHistory, afterResume, runFromHistory } from "../core/runs.js";
import type { UserMessageEvent } from "../core/rooms.js";
import { EventSequence } from "../core/sequence.js";
import { isEnd, type AgentEntry, type ChatMessage, type Question, type Run, type UserEntry } from "../core/snapshot.js";
import type { Update } from "../core/updates.js";
import { Conversation, isIn } from "./conversation.js";
import { contentOf, isAnswerOf, userEntry, watchedEntry } from "./entries.js";
import { RunStore } from "./runs.js";
import type { Position } from "./session-store.js";

/** The state that a leader sends to a tab that joins. */
export interface ViewState {
  readonly session: string | null;
  readonly last: number;
  readonly runs: readonly Run[];
  /** The ids of those of this session: what a watched thread reports of them is older. */
  readonly own: readonly string[];
  readonly users: readonly UserEntry[];
}

/** The updates of a session; those of rooms come by `watch` and `addQuestion`. */
export type ViewUpdate = Exclude<Update, { readonly kind: "room" | "room_state" }>;

export type Outcome = "applied" | "duplicate" | "missed";

const KEPT = 500; // messages; older ones are in the server's history
const NONE: ReadonlyMap<string, Run> = new Map();

export class View {
  #session: string | null = null;
  #sequence = new EventSequence();
  readonly #runs = new RunStore();
  readonly #users = new Map<string, UserEntry>();
  readonly #history = new Map<string, Page>();
  /** Of files by their ids, and of messages by their keys. */
  readonly #bytes = new ByteStore();
  readonly #conversation = new Conversation({ runs: this.#runs, users: this.#users, history: this.#history });
  #version = 0;
  #writing: ReadonlyMap<string, Run> = NONE;

  /** Increases with every change, except when a run that is shown receives more text. */
  get version(): number {
    return this.#version;
  }

  /** The runs that received text since the version changed: another map after each text. */
  get writing(): ReadonlyMap<string, Run> {
    return this.#writing;
  }

  /** The number up to which the view has every event of its session. */
  get position(): Position | null {
    return this.#session === null ? null : { session: this.#session, last: this.#sequence.last };
  }

  run(runId: string): Run | undefined {
    return this.#runs.get(runId);
  }

  question(questionId: string): Question | undefined {
    for (const { questions } of this.#runs.all.values()) {
      const found = questions.find(({ question_id }) => question_id === questionId);
      if (found !== undefined) return found;
    }
    return undefined;
  }

  /** Whether a message replaces another one of its thread. */
  replaces(key: string | undefined): boolean {
    return key !== undefined && this.#users.get(key)?.payload["replaces"] !== undefined;
  }

  /** Whether a run of this session is not over. */
  get hasRuns(): boolean {
    return this.#runs.isActive;
  }

  /** The bytes of a file, or of a message by its key, while they are kept. */
  bytes(id: string): ArrayBuffer | undefined {
    return this.#bytes.get(id);
  }

  runs(threads: ReadonlySet<string>): readonly Run[] {
    return [...this.#runs.all.values()].filter((run) => isIn(threads, run.thread_id));
  }

  messages(threads: ReadonlySet<string>): readonly ChatMessage[] {
    return this.#conversation.messages(threads);
  }

  /** An answer with the text that its run has received since the version changed. */
  withText(entry: AgentEntry, run: Run): AgentEntry {
    return this.#conversation.withText(entry, run);
  }

  apply(update: ViewUpdate): Outcome {
    if (update.kind === "message") return this.#applyMessage(update.message);
    const outcome = this.#applyOther(update);
    if (outcome === "applied") this.#changed();
    return outcome;
  }

  /** Shows a message before it is sent. A key that is shown already is not shown again. */
  show(message: OutboxMessage, content: string, type: string, timestamp: number): void {
    if (this.#users.has(message.key)) return;
    this.#users.set(message.key, userEntry(message, type, content, timestamp));
    this.#prune();
    this.#changed();
  }

  fail(key: string, error: ErrorBody): void {
    this.#mark(key, { status: "failed", error });
    this.#changed();
  }

  /** Stops showing a message that failed; false if no such message is shown. */
  discard(key: string): boolean {
    if (this.#users.get(key)?.status !== "failed") return false;
    this.#users.delete(key);
    this.#changed();
    return true;
  }

  /** @param isNewest Whether the page has the newest messages of the thread. */
  addHistory({ thread_id, messages }: ServerMessageOf<"thread_history">["payload"], isNewest: boolean): void {
    this.#history.set(thread_id, withPage(this.#history.get(thread_id) ?? [], messages, isNewest));
    const { questions, answers } = byRun(this.#history.get(thread_id) ?? []);
    for (const { run, ...message } of messages) {
      if (run === undefined) continue;
      // One of the two may be on another page.
      const answer = answers.get(run.run_id);
      if (answer?.run !== undefined && isEnd(answer.run.status)) {
        const { run: ended, ...rest } = answer;
        this.#runs.list(runFromHistory({ ...rest, run: ended }, questions.get(run.run_id), thread_id, this.#runs.get(run.run_id)));
      }
      if (answer !== undefined || message.role === "agent") continue;
      const known = this.#runs.ofSession(run.run_id) ?? this.#runs.get(run.run_id);
      // After a crash the history may lack the answer: then the received text is kept.
      const keepsText = known !== undefined && !messages.some((other) => isAnswerOf(other, known));
      const after = afterHistory(known, { ...message, run }, thread_id, keepsText);
      if (after !== undefined && after !== known) this.#runs.set(after);
    }
    this.#changed();
  }

  /** The runs of a watched thread; null: it is not watched any more. */
  watch(thread: string, runs: ReadonlyMap<string, Run> | null): void {
    const shown = this.#runs.all;
    const before = (runs === null ? [] : [...runs.keys()]).map((id) => shown.get(id));
    const changed = this.#runs.watch(thread, runs);
    const isText = changed?.every((run) => this.#isText(before.find((one) => one?.run_id === run.run_id), run)) ?? false;
    if (!isText) this.#changed();
    else if (changed !== null && changed.length > 0) this.#wrote(changed);
  }

  /** Adds a message that another session of a watched thread has sent. */
  addQuestion(thread: string, message: UserMessageEvent, timestamp: number): void {
    if (message.replaces !== undefined) this.#hideFrom(thread, message.replaces, message.run_id);
    const isKnown = [...this.#users.values()].some(({ message_id }) => message_id === message.message_id);
    if (!isKnown) this.#users.set(message.message_id, watchedEntry(message, thread, timestamp));
    this.#prune();
    this.#changed();
  }

  /** A thread is deleted; its unsent messages stay. */
  drop(thread: string): void {
    for (const { run_id } of this.runs(new Set([thread])).filter(({ thread_id }) => thread_id === thread)) {
      this.#runs.hide(run_id);
    }
    for (const [id, user] of this.#users) {
      if (user.thread_id === thread && user.message_id !== null) this.#users.delete(id);
    }
    this.#history.delete(thread);
    this.#changed();
  }

  clear(): void {
    this.#session = null;
    this.#sequence = new EventSequence();
    this.#runs.clear();
    this.#users.clear();
    this.#history.clear();
    this.#bytes.clear();
    this.#changed();
  }

  state(): ViewState {
    return {
      session: this.#session,
      last: this.#sequence.last,
      runs: this.#runs.sessions,
      own: this.#runs.own,
      users: [...this.#users.values()],
    };
  }

  /** Replaces the state by the leader's if that is newer. Messages that only this tab shows stay. */
  adopt(state: ViewState): void {
    const isCurrent = state.session === this.#session && this.#sequence.last >= state.last;
    if (!isCurrent) {
      this.#session = state.session;
      this.#sequence.startAfter(state.last);
      this.#runs.replaceAll(state.runs, state.own);
    }
    for (const user of state.users) this.#users.set(user.id, user);
    this.#changed();
  }

  /** Hides a message, its question and all later ones, except unsent messages and the new run. */
  #hideFrom(thread: string, messageId: string, newRun: string): void {
    const entries = this.messages(new Set([thread]));
    const at = entries.findIndex(({ message_id }) => message_id === messageId);
    if (at < 0) return;
    const found = entries[at];
    const question = found?.role === "agent" ? entries.findLastIndex(({ role }, index) => index < at && role === "user") : at;
    const hidden = entries.slice(Math.max(question, 0)).filter(
      (entry) => entry.run_id !== newRun && (entry.role === "agent" || entry.message_id !== null),
    );
    const ids = new Set(hidden.map(({ message_id }) => message_id));
    this.#history.set(thread, (this.#history.get(thread) ?? []).filter(({ message_id }) => !ids.has(message_id)));
    for (const { id, run_id } of hidden) {
      this.#users.delete(id);
      if (run_id !== null) this.#runs.hide(run_id);
    }
    this.#changed();
  }

  #applyMessage(message: ServerMessage): Outcome {
    if (message.type === "connection_established") {
      const outcome = this.#established(message.payload);
      if (outcome === "applied") this.#changed();
      return outcome;
    }
    if (!("seq" in message)) return "applied";
    const place = this.#sequence.place(message.seq, message.seq_from);
    if (place !== "next") return place === "duplicate" ? "duplicate" : "missed";
    this.#sequence.take(message.seq);
    const known = this.#runs.ofSession(message.payload.run_id);
    const run = afterEvent(known, message);
    // A text frame of a newer server may have another field of this name.
    if (message.type === "binary_result" && message.data instanceof ArrayBuffer) {
      this.#bytes.set(message.payload.file_id, message.data);
    }
    if (message.type === "agent_answered" && !this.#runs.isOwn(run.run_id)) {
      // This session answered a question of another one, and gets no further events of its run.
      if (known !== undefined) this.#runs.set(run);
      this.#changed();
      return "applied";
    }
    this.#runs.event(run);
    if (this.#isText(known, run)) {
      this.#wrote([run]);
      return "applied";
    }
    this.#linkQuestion(run, message);
    if (message.type === "agent_completed") this.#prune();
    this.#changed();
    return "applied";
  }

  /** Whether text follows the text that a run has shown before, and nothing else changes. */
  #isText(before: Run | undefined, after: Run): boolean {
    if (before === undefined || before.parts !== after.parts || before.parts.at(-1)?.type !== "text") return false;
    const keys = Object.keys(after) as (keyof Run)[];
    return keys.every((key) => key === "text" || before[key] === after[key]);
  }

  #wrote(runs: readonly Run[]): void {
    const writing = new Map(this.#writing);
    for (const run of runs) {
      if (this.#runs.get(run.run_id) === run) writing.set(run.run_id, run);
    }
    this.#writing = writing;
  }

  #changed(): void {
    this.#version += 1;
    this.#writing = NONE;
  }

  #established({
    session_id,
    resume,
  }: ServerMessageOf<"connection_established">["payload"]): Outcome {
    const isSame = this.#session === session_id;
    const { last } = this.#sequence;
    if (isSame && resume.verdict === "exact" && last < resume.last_seq) return "missed";
    const isAhead = isSame && last > resume.last_seq;
    if (!isSame) this.#runs.begin();
    this.#session = session_id;
    if (!isAhead) this.#sequence.startAfter(resume.last_seq);
    for (const resumed of resume.runs) {
      const known = this.#runs.ofSession(resumed.run_id);
      if (isAhead && known !== undefined) continue;
      const isComplete = isSame && last === resume.last_seq;
      this.#runs.event(afterResume(known, resumed, isComplete));
    }
    return "applied";
  }

  /** Stores at a question which run answers it, and that run's status. */
  #linkQuestion(run: Run, message: Extract<ServerMessage, { seq: number }>): void {
    const key = message.correlation_id;
    const user = key === undefined ? undefined : this.#users.get(key);
    if (key === undefined || user === undefined) return;
    if (user.run_status === run.status && user.run_id === run.run_id) return;
    const confirmed =
      message.type === "message_confirmed"
        ? { message_id: message.payload.message_id, thread_id: message.payload.thread_id }
        : {};
    if (message.type === "message_confirmed" && user.message_id === null) {
      // Listed in the order of confirmations, as in the history: other sessions may have sent meanwhile.
      this.#users.delete(key);
      const { replaces } = user.payload;
      if (typeof replaces === "string") this.#hideFrom(message.payload.thread_id, replaces, run.run_id);
    }
    this.#users.set(key, { ...user, ...confirmed, run_id: run.run_id, run_status: run.status });
  }

  #applyOther(update: Exclude<ViewUpdate, { kind: "message" }>): Outcome {
    switch (update.kind) {
      case "unconfirmed":
        for (const key of update.keys) this.#mark(key, { status: "unconfirmed" });
        return "applied";
      case "skipped": {
        const place = this.#sequence.place(update.seq, update.from);
        if (place === "next") this.#sequence.take(update.seq);
        return place === "next" ? "applied" : place === "duplicate" ? "duplicate" : "missed";
      }
      case "restored":
        this.#showSent(update.message);
        return "applied";
      case "sending":
        this.#mark(update.message.key, { status: "pending", error: null });
        return "applied";
      case "settled":
        // A message that no tab has shown yet is shown once it is confirmed.
        if (update.ok) this.#showSent(update.message);
        this.#keep(update.message);
        this.#mark(update.message.key, { status: update.ok ? "confirmed" : "failed", error: update.error });
        return "applied";
    }
  }

  #showSent(message: OutboxMessage): void {
    const { type, timestamp = 0 } = message.message;
    this.show(message, contentOf(message), type, timestamp);
  }

  /** Keeps the bytes of a message, which may have been shown without them, for `resend`. */
  #keep({ key, message }: OutboxMessage): void {
    if (message.data === undefined) return;
    this.#bytes.set(key, message.data.bytes);
    this.#mark(key, { payload: { ...framePayload(message) } });
  }

  #mark(key: string, change: Partial<UserEntry>): void {
    const user = this.#users.get(key);
    if (user === undefined) return;
    // A refused message stays below those that were confirmed before.
    if (change.status === "failed") this.#users.delete(key);
    this.#users.set(key, { ...user, ...change });
  }

  #prune(): void {
    for (const [key, user] of this.#users) {
      if (this.#users.size <= KEPT) break;
      if (user.status === "confirmed" || user.status === "failed") this.#users.delete(key);
    }
    this.#runs.prune();
  }
}

interface ByRun {
  readonly questions: ReadonlyMap<string, HistoryMessage>;
  readonly answers: ReadonlyMap<string, HistoryMessage>;
}

/** The messages of a history by the runs that they belong to. */
function byRun(messages: Page): ByRun {
  const [questions, answers] = [new Map<string, HistoryMessage>(), new Map<string, HistoryMessage>()];
  for (const message of messages) {
    if (message.run !== undefined) (message.role === "user" ? questions : answers).set(message.run.run_id, message);
  }
  return { questions, answers };
}
