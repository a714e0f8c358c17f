// The conversation of one thread, as the page lists it: each answer below its question, and messages
// that wait at the end.

import type { AgentEntry, ChatMessage, Run, RunStatus, Snapshot, UserEntry } from "../../../src/index.ts";
import { isEnd } from "../../../src/index.ts";
import { withoutReplaced } from "../composer/replaced.ts";

/** One entry of the list: a message of the user, or an agent's answer. */
export type Item =
  | {
      readonly kind: "user";
      readonly key: string;
      readonly entry: UserEntry;
      // Parts of the run, which itself changes with each delta.
      readonly runStatus: RunStatus | undefined;
      /** In the queue. */
      readonly position: number | null;
    }
  | {
      readonly kind: "agent";
      readonly key: string;
      /** Absent while there is no text. */
      readonly entry: AgentEntry | undefined;
      readonly run: Run | undefined;
      readonly status: RunStatus;
      readonly question: UserEntry | undefined;
    };

export interface Conversation {
  readonly items: ReadonlyMap<string, Item>;
  readonly keys: readonly string[];
  /** The first message of the user, which names the thread. */
  readonly first: UserEntry | undefined;
  /** The id of the oldest message that the server has stored. */
  readonly oldest: string | undefined;
  /** The run that the Stop button stops. */
  readonly activeRunId: string | undefined;
}

type Source = Pick<Snapshot, "messages" | "runs">;

let last: { readonly source: Source; readonly threadId: string; readonly value: Conversation } | null = null;

/** The conversation of a thread. Computed once for each state, however many components select from it. */
export function conversationOf(source: Source, threadId: string): Conversation {
  const isSame =
    last?.threadId === threadId &&
    last.source.messages === source.messages &&
    last.source.runs === source.runs;
  if (!isSame || last === null) last = { source, threadId, value: compute(source, threadId) };
  return last.value;
}

function compute({ messages, runs }: Source, threadId: string): Conversation {
  const entries = withoutReplaced(messages.filter((entry) => threadOf(entry) === threadId));
  const byId = new Map(runs.map((run) => [run.run_id, run]));
  const items = itemsOf(entries, byId);
  const active = entries
    .map((entry) => byId.get(entry.run_id ?? ""))
    .filter((run): run is Run => run !== undefined && !isEnd(run.status));
  const activeRun = active.find((run) => run.status === "running") ?? active[0];
  return {
    items: new Map(items.map((item) => [item.key, item])),
    keys: items.map((item) => item.key),
    first: items.find((item) => item.kind === "user")?.entry,
    oldest: entries.find((entry) => entry.message_id !== null)?.message_id ?? undefined,
    activeRunId: activeRun?.run_id,
  };
}

export const threadOf = (entry: ChatMessage) =>
  (entry.payload["thread_id"] as string | undefined) ?? entry.thread_id;

/** Put each answer below its question; a run without text has an entry below its question too. */
function itemsOf(entries: readonly ChatMessage[], runs: ReadonlyMap<string, Run>): readonly Item[] {
  const items: Item[] = [];
  const answered = new Set<UserEntry>();
  const questions = entries.filter((entry): entry is UserEntry => entry.role === "user");
  const questionTo = (entry: AgentEntry, before: ChatMessage | undefined) => {
    if (entry.run_id !== null) return questions.find((asked) => asked.run_id === entry.run_id);
    // The history does not link answers to questions; runs of a thread are sequential, so an answer
    // follows its question.
    return before?.role === "user" ? before : undefined;
  };
  const asked = new Map<AgentEntry, UserEntry>();
  entries.forEach((entry, index) => {
    const question = entry.role === "agent" ? questionTo(entry, entries[index - 1]) : undefined;
    if (entry.role === "agent" && question) {
      asked.set(entry, question);
      answered.add(question);
    }
  });
  for (const entry of entries) {
    const run = entry.run_id === null ? undefined : runs.get(entry.run_id);
    if (entry.role === "agent") {
      const question = asked.get(entry);
      const itsRun = run ?? (question?.run_id ? runs.get(question.run_id) : undefined);
      const status = itsRun?.status ?? question?.run_status ?? entry.status;
      // A queued run is shown at its question; it has no text yet.
      if (status === "queued") continue;
      items.push({ kind: "agent", key: entry.id, entry, run: itsRun, status, question });
      continue;
    }
    items.push({ kind: "user", key: entry.id, entry, runStatus: run?.status, position: run?.position ?? null });
    const status = run?.status ?? entry.run_status;
    const hasNoText = status !== null && status !== "queued" && status !== "completed";
    if (hasNoText && !answered.has(entry)) {
      const key = entry.run_id ?? `${entry.id} answer`;
      items.push({ kind: "agent", key, entry: undefined, run, status, question: entry });
    }
  }
  // A message that waits is listed after the answer that it waits for.
  const isWaiting = (item: Item) =>
    item.kind === "user" &&
    (item.runStatus === "queued" || item.entry.status === "pending" || item.entry.status === "unconfirmed");
  return [...items.filter((item) => !isWaiting(item)), ...items.filter(isWaiting)];
}
