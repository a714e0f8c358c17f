/** The messages of a conversation in order: the history, then newer messages with their answers. */

import type { HistoryMessage } from "../protocol/messages.js";
import type { Page } from "../core/history.js";
import { filePlaces } from "../core/parts.js";
import { isEnd, type AgentEntry, type ChatMessage, type Run, type UserEntry } from "../core/snapshot.js";
import { answerFromHistory, questionFromHistory, runEntry } from "./entries.js";

export interface ConversationData {
  readonly runs: { readonly all: ReadonlyMap<string, Run>; isHidden(runId: string | null): boolean };
  readonly users: ReadonlyMap<string, UserEntry>;
  /** By thread. */
  readonly history: ReadonlyMap<string, Page>;
}

interface Placed {
  /** The messages that are older than a message of the history and newer than the one before it, by its id. */
  readonly before: ReadonlyMap<string, readonly UserEntry[]>;
  /** The ids of messages of the history from before they were in it. */
  readonly ids: ReadonlyMap<string, string>;
  /** The messages behind the history. */
  readonly newer: readonly UserEntry[];
  /** Those that the server has not confirmed. */
  readonly waiting: readonly UserEntry[];
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
    const { runs, users, history } = this.#data;
    const pages = [...threads].map((thread) => ({ thread, page: history.get(thread) ?? [] }));
    const placed = this.#placed(threads, pages.flatMap(({ page }) => page));
    const list: ChatMessage[] = [];
    const listed = new Set<string>();
    const questions = new Map<string, UserEntry>();
    for (const user of users.values()) if (user.run_id !== null) questions.set(user.run_id, user);
    const add = (user: UserEntry): void => {
      list.push(this.#withStatus(user));
      const run = user.run_id === null ? undefined : runs.all.get(user.run_id);
      if (run === undefined || listed.has(run.run_id)) return;
      listed.add(run.run_id);
      list.push(this.#answer(run, user));
    };
    for (const { thread, page } of pages) this.#addHistory(thread, page, placed, list, listed, add);
    for (const user of placed.newer) add(user);
    for (const run of runs.all.values()) {
      if (!isIn(threads, run.thread_id) || listed.has(run.run_id)) continue;
      list.push(this.#answer(run, questions.get(run.run_id)));
    }
    for (const user of placed.waiting) add(user);
    return list;
  }

  /** An answer whose run has received text, and nothing else, since the answer was listed. */
  withText(entry: AgentEntry, run: Run): AgentEntry {
    const known = this.#answers.get(run);
    if (known !== undefined) return known;
    const written = { ...entry, payload: { content: run.text }, content: run.text };
    this.#answers.set(run, written);
    return written;
  }

  /** The place of each message that the history does not list. */
  #placed(threads: ReadonlySet<string>, pages: Page): Placed {
    const { runs, users } = this.#data;
    const stored = new Map<string, string>();
    for (const { message_id, correlation_id } of pages) {
      stored.set(message_id, message_id);
      if (correlation_id !== undefined) stored.set(correlation_id, message_id);
    }
    const [before, ids] = [new Map<string, readonly UserEntry[]>(), new Map<string, string>()];
    const newer = new Map<string | null, UserEntry[]>();
    const waiting: UserEntry[] = [];
    for (const user of users.values()) {
      const { id, message_id, thread_id, status } = user;
      if (!isIn(threads, thread_id) || runs.isHidden(user.run_id)) continue;
      const found = stored.get(id) ?? stored.get(message_id ?? "");
      if (found !== undefined) {
        ids.set(found, id);
        // Those that were confirmed earlier are older than the oldest message of the loaded page.
        before.set(found, newer.get(thread_id) ?? []);
        newer.delete(thread_id);
      } else if (message_id === null && (status === "pending" || status === "unconfirmed")) {
        waiting.push(user);
      } else {
        newer.set(thread_id, [...(newer.get(thread_id) ?? []), user]);
      }
    }
    return { before, ids, newer: [...newer.values()].flat(), waiting };
  }

  #addHistory(
    thread: string,
    page: Page,
    { before, ids }: Placed,
    list: ChatMessage[],
    listed: Set<string>,
    add: (user: UserEntry) => void,
  ): void {
    const answers = page.filter(({ role }) => role === "agent");
    const answered = new Set(answers.map(({ run }) => run?.run_id));
    const texts = counted(answers.filter(({ run }) => run === undefined).map(({ content }) => content));
    let agent: string | null = null;
    for (const message of page) {
      for (const user of before.get(message.message_id) ?? []) add(user);
      // The history names the agent at the question; the answer that follows is that agent's.
      agent = message.run?.agent_name ?? agent;
      list.push(this.#fromHistory(message, thread, agent, ids.get(message.message_id)));
      if (message.run === undefined) continue;
      listed.add(message.run.run_id);
      const run = this.#data.runs.all.get(message.run.run_id);
      if (run === undefined || answered.has(run.run_id)) continue;
      // An answer of a version before 0.2 has no run: it is found by its text.
      const left = texts.get(run.text) ?? 0;
      texts.set(run.text, left - 1);
      const question = list.at(-1);
      const isShown = !isEnd(run.status) || (run.text !== "" && left <= 0);
      if (isShown) list.push(this.#answer(run, question?.role === "user" ? question : undefined));
    }
  }

  #fromHistory(message: HistoryMessage, thread: string, agent: string | null, id: string | undefined): ChatMessage {
    const run = this.#data.runs.all.get(message.run?.run_id ?? "");
    const run_status = run?.status ?? message.run?.status ?? null;
    // The history shortens long answers; the live one is complete.
    const isLonger = message.role === "agent" && message.truncated === true && (run?.text.length ?? 0) > message.content.length;
    const content = isLonger && run !== undefined ? run.text : message.content;
    const known = this.#old.get(message);
    if (known?.content === content && (known.role === "agent" || known.run_status === run_status)) return known;
    const longer = run !== undefined && isLonger ? { content, truncated: run.truncated, parts: run.parts } : {};
    // The history lists files without their places.
    const placed = run?.text === message.content && filePlaces(run).length > 0 ? { parts: run.parts } : {};
    const entry =
      message.role === "user"
        ? { ...questionFromHistory(message, thread, id), run_status }
        : { ...answerFromHistory(message, thread, agent), ...placed, ...longer };
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
    const entry = runEntry(run, asked);
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
