/** The messages of a conversation in order: the history, then newer messages with their answers. */

import type { HistoryMessage } from "../protocol/messages.js";
import type { Page } from "../core/history.js";
import { isEnd, type AgentEntry, type ChatMessage, type Run, type UserEntry } from "../core/snapshot.js";
import { answerFromHistory, questionFromHistory, runEntry } from "./entries.js";

export interface ConversationData {
  readonly runs: { readonly all: ReadonlyMap<string, Run>; isHidden(runId: string | null): boolean };
  readonly users: ReadonlyMap<string, UserEntry>;
  /** By thread. */
  readonly history: ReadonlyMap<string, Page>;
}

interface Listed {
  /** Message ids and correlation ids. */
  readonly messages: Set<string>;
  readonly runs: Set<string>;
}

export class Conversation {
  readonly #data: ConversationData;
  // An unchanged message stays the same object, so that a list renders again only what changed.
  readonly #answers = new WeakMap<Run, AgentEntry>();
  readonly #old = new WeakMap<HistoryMessage, ChatMessage>();
  readonly #statuses = new WeakMap<UserEntry, UserEntry>();

  constructor(data: ConversationData) {
    this.#data = data;
  }

  messages(threads: ReadonlySet<string>): readonly ChatMessage[] {
    const { runs, users } = this.#data;
    const list: ChatMessage[] = [];
    const listed = { messages: new Set<string>(), runs: new Set<string>() };
    for (const thread of threads) this.#addHistory(thread, list, listed);
    const questions = new Map<string, UserEntry>();
    for (const user of users.values()) {
      if (user.run_id !== null) questions.set(user.run_id, user);
      if (!isIn(threads, user.thread_id) || runs.isHidden(user.run_id)) continue;
      if (listed.messages.has(user.id) || listed.messages.has(user.message_id ?? "")) continue;
      list.push(this.#withStatus(user));
      const run = user.run_id === null ? undefined : runs.all.get(user.run_id);
      if (run === undefined || listed.runs.has(run.run_id)) continue;
      listed.runs.add(run.run_id);
      list.push(this.#answer(run, user));
    }
    for (const run of runs.all.values()) {
      if (!isIn(threads, run.thread_id) || listed.runs.has(run.run_id)) continue;
      list.push(this.#answer(run, questions.get(run.run_id)));
    }
    return list;
  }

  #addHistory(thread: string, list: ChatMessage[], listed: Listed): void {
    const page = this.#data.history.get(thread) ?? [];
    const answers = page.filter(({ role }) => role === "agent");
    const answered = new Set(answers.map(({ run }) => run?.run_id));
    const texts = counted(answers.filter(({ run }) => run === undefined).map(({ content }) => content));
    let agent: string | null = null;
    for (const message of page) {
      // The history names the agent at the question; the answer that follows is that agent's.
      agent = message.run?.agent_name ?? agent;
      list.push(this.#fromHistory(message, thread, agent));
      listed.messages.add(message.message_id);
      if (message.correlation_id !== undefined) listed.messages.add(message.correlation_id);
      if (message.run === undefined) continue;
      listed.runs.add(message.run.run_id);
      const run = this.#data.runs.all.get(message.run.run_id);
      if (run === undefined || answered.has(run.run_id)) continue;
      // An answer of a version before 0.2 has no run: it is found by its text.
      const left = texts.get(run.text) ?? 0;
      texts.set(run.text, left - 1);
      if (!isEnd(run.status) || (run.text !== "" && left <= 0)) list.push(this.#answer(run, undefined));
    }
  }

  #fromHistory(message: HistoryMessage, thread: string, agent: string | null): ChatMessage {
    const run = this.#data.runs.all.get(message.run?.run_id ?? "");
    const run_status = run?.status ?? message.run?.status ?? null;
    // The history shortens long answers; the live one is complete.
    const isLonger = message.role === "agent" && message.truncated === true && (run?.text.length ?? 0) > message.content.length;
    const content = isLonger && run !== undefined ? run.text : message.content;
    const known = this.#old.get(message);
    if (known?.content === content && (known.role === "agent" || known.run_status === run_status)) return known;
    const entry =
      message.role === "user"
        ? { ...questionFromHistory(message, thread), run_status }
        : { ...answerFromHistory(message, thread, agent), ...(isLonger ? { content, truncated: run?.truncated === true } : {}) };
    this.#old.set(message, entry);
    return entry;
  }

  /** A question of another session with the status of its run, which only the run has. */
  #withStatus(user: UserEntry): UserEntry {
    const run_status = this.#data.runs.all.get(user.run_id ?? "")?.status ?? user.run_status;
    if (run_status === user.run_status) return user;
    const known = this.#statuses.get(user);
    if (known?.run_status === run_status) return known;
    const entry = { ...user, run_status };
    this.#statuses.set(user, entry);
    return entry;
  }

  #answer(run: Run, question: UserEntry | undefined): AgentEntry {
    const known = this.#answers.get(run);
    if (known !== undefined) return known;
    const asked = question ?? this.#data.users.get(run.correlation_id ?? "");
    const entry = runEntry(run, asked?.timestamp ?? 0);
    this.#answers.set(run, entry);
    return entry;
  }
}

/** Whether a thread is among those shown. A message whose thread is not known yet is shown. */
export const isIn = (threads: ReadonlySet<string>, thread: string | null): boolean =>
  thread === null || threads.has(thread);

/** The number of occurrences of each text. */
function counted(texts: readonly string[]): Map<string, number> {
  const counts = new Map<string, number>();
  for (const text of texts) counts.set(text, (counts.get(text) ?? 0) + 1);
  return counts;
}
