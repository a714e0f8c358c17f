/** The messages of a conversation in order: the history, then newer messages with their answers. */

import type { HistoryMessage } from "../protocol/messages.js";
import type { Page } from "../core/history.js";
import { isEnd, type AgentEntry, type ChatMessage, type Run, type UserEntry } from "../core/snapshot.js";
import { answerFromHistory, questionFromHistory, runEntry } from "./entries.js";

export interface ConversationData {
  readonly runs: ReadonlyMap<string, Run>;
  readonly users: ReadonlyMap<string, UserEntry>;
  /** By thread. */
  readonly history: ReadonlyMap<string, Page>;
}

export class Conversation {
  readonly #data: ConversationData;
  // An unchanged message stays the same object, so that a list renders again only what changed.
  readonly #answers = new WeakMap<Run, AgentEntry>();
  readonly #old = new WeakMap<HistoryMessage, ChatMessage>();

  constructor(data: ConversationData) {
    this.#data = data;
  }

  messages(threads: ReadonlySet<string>): readonly ChatMessage[] {
    const { runs, users } = this.#data;
    const list: ChatMessage[] = [];
    const listedKeys = new Set<string>();
    const listedRuns = new Set<string>();
    for (const thread of threads) this.#addHistory(thread, list, listedKeys, listedRuns);
    for (const user of users.values()) {
      if (!isIn(threads, user.thread_id) || listedKeys.has(user.id)) continue;
      list.push(user);
      const run = user.run_id === null ? undefined : runs.get(user.run_id);
      if (run === undefined || listedRuns.has(run.run_id)) continue;
      listedRuns.add(run.run_id);
      list.push(this.#answer(run));
    }
    for (const run of runs.values()) {
      if (isIn(threads, run.thread_id) && !listedRuns.has(run.run_id)) list.push(this.#answer(run));
    }
    return list;
  }

  #addHistory(thread: string, list: ChatMessage[], keys: Set<string>, runs: Set<string>): void {
    const page = this.#data.history.get(thread) ?? [];
    const texts = counted(page.filter(({ role }) => role === "agent").map(({ content }) => content));
    let agent: string | null = null;
    for (const message of page) {
      // The history names the agent at the question; the answer that follows is that agent's.
      agent = message.run?.agent_name ?? agent;
      list.push(this.#fromHistory(message, thread, agent));
      if (message.correlation_id !== undefined) keys.add(message.correlation_id);
      const run = message.run && this.#data.runs.get(message.run.run_id);
      if (run === undefined) continue;
      runs.add(run.run_id);
      // A run whose answer is in the history is not listed again.
      const left = texts.get(run.text) ?? 0;
      texts.set(run.text, left - 1);
      if (!isEnd(run.status) || (run.text !== "" && left <= 0)) list.push(this.#answer(run));
    }
  }

  #fromHistory(message: HistoryMessage, thread: string, agent: string | null): ChatMessage {
    const { run } = message;
    const run_status = run === undefined ? null : (this.#data.runs.get(run.run_id)?.status ?? run.status);
    const known = this.#old.get(message);
    if (known !== undefined && (known.role === "agent" || known.run_status === run_status)) return known;
    const entry =
      message.role === "agent"
        ? answerFromHistory(message, thread, agent)
        : { ...questionFromHistory(message, thread), run_status };
    this.#old.set(message, entry);
    return entry;
  }

  #answer(run: Run): AgentEntry {
    const known = this.#answers.get(run);
    if (known !== undefined) return known;
    const entry = runEntry(run, this.#data.users.get(run.correlation_id ?? "")?.timestamp ?? 0);
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
