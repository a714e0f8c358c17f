/**
 * What a tab shows: messages and runs, from the notes of whoever holds the socket.
 *
 * Notes come in the order in which they happened. A tab without the socket may miss some (it was
 * opened later, or asleep): `missed` says so, and the holder's state takes the place of its own.
 */

import type { ErrorBody, HistoryMessage, ServerMessage, ServerMessageOf } from "../protocol/messages.js";
import { Delivery } from "../core/sequence.js";
import { withPage, type Page } from "../core/history.js";
import type { Entry } from "../core/outbox.js";
import { afterEvent, afterResume } from "../core/runs.js";
import { isEnd, type AgentEntry, type ChatMessage, type Run, type UserEntry } from "../core/snapshot.js";

export type Note =
  | { readonly kind: "message"; readonly message: ServerMessage }
  /** A message goes out (again): it is on its way. */
  | { readonly kind: "sending"; readonly entry: Entry }
  /** A reload brought it back. */
  | { readonly kind: "restored"; readonly entry: Entry }
  /** An event that could not be read; nothing is known of it but its number. */
  | { readonly kind: "skipped"; readonly seq: number; readonly from: number }
  /** The line dropped before an answer to these. */
  | { readonly kind: "unconfirmed"; readonly keys: readonly string[] }
  | {
      readonly kind: "settled";
      readonly entry: Entry;
      readonly ok: boolean;
      readonly error: ErrorBody | null;
    };

export interface ViewState {
  readonly session: string | null;
  readonly last: number;
  readonly runs: readonly Run[];
  readonly users: readonly UserEntry[];
}

export type Outcome = "applied" | "known" | "missed";

const KEPT = 500; // messages and ended runs; older ones are in the server's history

export class View {
  #session: string | null = null;
  #delivery = new Delivery();
  #runs = new Map<string, Run>();
  #users = new Map<string, UserEntry>();
  #history = new Map<string, Page>();
  // The same object for the same thing, so that a list renders again only what changed.
  #agents = new WeakMap<Run, AgentEntry>();
  #past = new WeakMap<HistoryMessage, ChatMessage>();
  /** Goes up with every change. */
  version = 0;

  /** Up to where this side has every event of which session. */
  get position(): { readonly session: string; readonly last: number } | null {
    return this.#session === null ? null : { session: this.#session, last: this.#delivery.last };
  }

  run(runId: string): Run | undefined {
    return this.#runs.get(runId);
  }

  user(key: string): UserEntry | undefined {
    return this.#users.get(key);
  }

  apply(note: Note): Outcome {
    const outcome = note.kind === "message" ? this.#message(note.message) : this.#delivered(note);
    if (outcome === "applied") this.version += 1;
    return outcome;
  }

  /** Shows a message before it is sent. One key is shown once. */
  show(entry: Entry, content: string, type: string, now: number): void {
    if (this.#users.has(entry.key)) return;
    const { thread_id } = entry.message.payload;
    this.#users.set(entry.key, {
      role: "user",
      id: entry.key,
      type,
      payload: { ...entry.message.payload },
      content,
      correlation_id: entry.key,
      thread_id: thread_id ?? null,
      message_id: null,
      run_id: null,
      run_status: null,
      status: "pending",
      error: null,
      timestamp: now / 1000,
    });
    this.#prune();
    this.version += 1;
  }

  fail(key: string, error: ErrorBody): void {
    this.#mark(key, { status: "failed", error });
    this.version += 1;
  }

  history({ thread_id, messages }: ServerMessageOf<"thread_history">["payload"]): void {
    this.#history.set(thread_id, withPage(this.#history.get(thread_id) ?? [], messages));
    for (const { run } of messages) {
      const known = run && this.#runs.get(run.run_id);
      // Its end was missed: after a reset or a gap the history is what tells of it.
      if (run && known && isEnd(run.status) && !isEnd(known.status)) {
        // Where the history has no answer, as after a crash, what was seen of it stays.
        const text = messages.some((message) => isAnswer(message, known)) ? "" : known.text;
        this.#runs.set(run.run_id, { ...known, status: run.status, text, position: null });
      }
    }
    this.version += 1;
  }

  clear(): void {
    this.#session = null;
    this.#delivery = new Delivery();
    this.#runs.clear();
    this.#users.clear();
    this.#history.clear();
    this.version += 1;
  }

  state(): ViewState {
    return {
      session: this.#session,
      last: this.#delivery.last,
      runs: [...this.#runs.values()],
      users: [...this.#users.values()],
    };
  }

  /** Takes over the holder's state, unless this side is as far. What only this tab shows stays. */
  adopt(state: ViewState): void {
    const isAsFar = state.session === this.#session && this.#delivery.last >= state.last;
    if (!isAsFar) {
      this.#session = state.session;
      this.#delivery.startAfter(state.last);
      this.#runs = new Map(state.runs.map((run) => [run.run_id, run]));
    }
    for (const user of state.users) this.#users.set(user.id, user);
    this.version += 1;
  }

  runs(threads: ReadonlySet<string>): readonly Run[] {
    return [...this.#runs.values()].filter((run) => isIn(threads, run.thread_id));
  }

  /** The conversation: history first, then what is newer, each answer behind its question. */
  messages(threads: ReadonlySet<string>): readonly ChatMessage[] {
    const list: ChatMessage[] = [];
    const keys = new Set<string>();
    const runs = new Set<string>();
    for (const thread of threads) {
      const page = this.#history.get(thread) ?? [];
      const texts = counted(page.filter(isAgents).map((message) => message.content));
      let name: string | null = null;
      for (const message of page) {
        // The history names the agent of a question; what follows is the answer of that one.
        name = message.run?.agent_name ?? name;
        list.push(this.#old(message, thread, name));
        if (message.correlation_id !== undefined) keys.add(message.correlation_id);
        const run = message.run && this.#runs.get(message.run.run_id);
        if (run === undefined) continue;
        runs.add(run.run_id);
        // Where the history has the answer already, it stands there.
        const left = texts.get(run.text) ?? 0;
        texts.set(run.text, left - 1);
        if (!isEnd(run.status) || (run.text !== "" && left <= 0)) list.push(this.#agent(run));
      }
    }
    for (const user of this.#users.values()) {
      if (!isIn(threads, user.thread_id) || keys.has(user.id)) continue;
      list.push(user);
      const run = user.run_id === null ? undefined : this.#runs.get(user.run_id);
      if (run === undefined || runs.has(run.run_id)) continue;
      runs.add(run.run_id);
      list.push(this.#agent(run));
    }
    for (const run of this.#runs.values()) {
      if (isIn(threads, run.thread_id) && !runs.has(run.run_id)) list.push(this.#agent(run));
    }
    return list;
  }

  #message(message: ServerMessage): Outcome {
    if (message.type === "connection_established") return this.#established(message.payload);
    if (!("seq" in message)) return "applied";
    const place = this.#delivery.place(message.seq, message.seq_from);
    if (place !== "next") return place === "again" ? "known" : "missed";
    this.#delivery.take(message.seq);
    const run = afterEvent(this.#runs.get(message.payload.run_id), message);
    this.#runs.set(run.run_id, run);
    this.#answered(run, message);
    if (message.type === "agent_completed") this.#prune();
    return "applied";
  }

  #established({
    session_id,
    resume,
  }: ServerMessageOf<"connection_established">["payload"]): Outcome {
    const isSame = this.#session === session_id;
    const { last } = this.#delivery;
    if (isSame && resume.verdict === "exact" && last < resume.last_seq) return "missed";
    const isAhead = isSame && last > resume.last_seq;
    this.#session = session_id;
    if (!isAhead) this.#delivery.startAfter(resume.last_seq);
    for (const told of resume.runs) {
      const known = this.#runs.get(told.run_id);
      if (isAhead && known !== undefined) continue;
      const isComplete = isSame && last === resume.last_seq;
      this.#runs.set(told.run_id, afterResume(known, told, isComplete));
    }
    return "applied";
  }

  #answered(run: Run, message: Extract<ServerMessage, { seq: number }>): void {
    const key = message.correlation_id;
    const user = key === undefined ? undefined : this.#users.get(key);
    if (key === undefined || user === undefined) return;
    if (user.run_status === run.status && user.run_id === run.run_id) return;
    const confirmed =
      message.type === "message_confirmed"
        ? { message_id: message.payload.message_id, thread_id: message.payload.thread_id }
        : {};
    this.#users.set(key, { ...user, ...confirmed, run_id: run.run_id, run_status: run.status });
  }

  #delivered(note: Exclude<Note, { kind: "message" }>): Outcome {
    if (note.kind === "unconfirmed") {
      for (const key of note.keys) this.#mark(key, { status: "unconfirmed" });
      return "applied";
    }
    if (note.kind === "skipped") {
      const place = this.#delivery.place(note.seq, note.from);
      if (place === "next") this.#delivery.take(note.seq);
      return place === "next" ? "applied" : place === "again" ? "known" : "missed";
    }
    const { entry } = note;
    if (note.kind === "restored") {
      this.show(entry, contentOf(entry), entry.message.type, (entry.message.timestamp ?? 0) * 1000);
      return "applied";
    }
    if (note.kind === "sending") {
      this.#mark(entry.key, { status: "pending", error: null });
      return "applied";
    }
    // A message that no tab showed while it was on its way is shown now that it counts.
    if (note.ok) this.show(entry, contentOf(entry), entry.message.type, (entry.message.timestamp ?? 0) * 1000);
    this.#mark(entry.key, { status: note.ok ? "confirmed" : "failed", error: note.error });
    return "applied";
  }

  #mark(key: string, change: Partial<UserEntry>): void {
    const user = this.#users.get(key);
    if (user !== undefined) this.#users.set(key, { ...user, ...change });
  }

  #old(message: HistoryMessage, thread: string, agent: string | null): ChatMessage {
    const run_status = message.run && (this.#runs.get(message.run.run_id)?.status ?? message.run.status);
    const known = this.#past.get(message);
    if (known !== undefined && (known.role === "agent" || known.run_status === (run_status ?? null))) {
      return known;
    }
    const entry =
      message.role === "agent"
        ? saidBefore(message, thread, agent)
        : { ...fromHistory(message, thread), run_status: run_status ?? null };
    this.#past.set(message, entry);
    return entry;
  }

  #agent(run: Run): AgentEntry {
    const known = this.#agents.get(run);
    if (known !== undefined) return known;
    const entry: AgentEntry = {
      role: "agent",
      id: run.run_id,
      type: "agent_message",
      payload: { content: run.text },
      content: run.text,
      correlation_id: run.correlation_id,
      thread_id: run.thread_id,
      message_id: null,
      run_id: run.run_id,
      status: run.status,
      error: run.error,
      truncated: run.truncated,
      timestamp: this.#users.get(run.correlation_id ?? "")?.timestamp ?? 0,
    };
    this.#agents.set(run, entry);
    return entry;
  }

  #prune(): void {
    for (const [key, user] of this.#users) {
      if (this.#users.size <= KEPT) break;
      if (user.status === "confirmed" || user.status === "failed") this.#users.delete(key);
    }
    for (const [key, run] of this.#runs) {
      if (this.#runs.size <= KEPT) break;
      if (isEnd(run.status)) this.#runs.delete(key);
    }
  }
}

export function contentOf({ message }: Entry): string {
  if (message.type === "user_message") return message.payload.content;
  const { input } = message.payload;
  return typeof input === "string" ? input : JSON.stringify(input);
}

const isIn = (threads: ReadonlySet<string>, thread: string | null): boolean =>
  thread === null || threads.has(thread);

/** How often there is each of them. */
function counted(texts: readonly string[]): Map<string, number> {
  const counts = new Map<string, number>();
  for (const text of texts) counts.set(text, (counts.get(text) ?? 0) + 1);
  return counts;
}

/** Whether a message of the history has what was seen of a run, and perhaps more. */
function isAnswer({ role, content, truncated }: HistoryMessage, { text, truncated: isCut }: Run): boolean {
  if (role !== "agent") return false;
  return content.startsWith(text) || (isCut && content.includes(text)) || (truncated === true && text.startsWith(content));
}

const isAgents = (message: Page[number]): boolean => message.role === "agent";

function fromHistory(message: Page[number], thread: string): UserEntry {
  return {
    role: "user",
    id: message.correlation_id ?? message.message_id,
    type: "user_message",
    payload: { content: message.content },
    content: message.content,
    correlation_id: message.correlation_id ?? null,
    thread_id: thread,
    message_id: message.message_id,
    run_id: message.run?.run_id ?? null,
    run_status: null,
    status: "confirmed",
    error: null,
    timestamp: message.created_at,
  };
}

function saidBefore(message: Page[number], thread: string, agent: string | null): AgentEntry {
  return {
    role: "agent",
    id: message.message_id,
    type: "agent_message",
    payload: { content: message.content, ...(agent === null ? {} : { agent_name: agent }) },
    content: message.content,
    correlation_id: null,
    thread_id: thread,
    message_id: message.message_id,
    run_id: null,
    status: "completed",
    error: null,
    truncated: message.truncated === true,
    timestamp: message.created_at,
  };
}
