// The conversation of one thread, as the page lists it: each answer below its question, and messages
// that wait at the end.

import type { AgentEntry, ChatMessage, Run, RunStatus, Snapshot, UserEntry } from "../../../src/index.ts";
import { isEnd } from "../../../src/index.ts";
import { withoutReplaced } from "../composer/replaced.ts";

export interface UserItem {
  readonly kind: "user";
  readonly key: string;
  readonly entry: UserEntry;
  readonly runStatus: RunStatus | undefined;
  /** In the queue. */
  readonly position: number | null;
}

export interface AgentItem {
  readonly kind: "agent";
  readonly key: string;
  /** Absent while there is no text. */
  readonly entry: AgentEntry | undefined;
  /** Without the text that the outline of the state lacks. */
  readonly run: Run | undefined;
  readonly status: RunStatus;
  /** The message that it answers; absent if that is not loaded. */
  readonly question: UserEntry | undefined;
}

/** One entry of the list: a message of the user, or an agent's answer. */
export type Item = UserItem | AgentItem;

export interface Conversation {
  readonly items: readonly Item[];
  /** The first message of the user, which names the thread. */
  readonly first: UserEntry | undefined;
  /** The id of the oldest message that the server has stored. */
  readonly oldest: string | undefined;
  /** The run that the Stop button stops. */
  readonly activeRunId: string | undefined;
}

type Source = Pick<Snapshot, "outline">;

let last: { readonly outline: Snapshot["outline"]; readonly threadId: string; readonly value: Conversation } | null = null;

/**
 * The conversation of a thread, from the outline of the state: the same object while text arrives.
 * Computed once for each outline, however many components select from it.
 */
export function conversationOf({ outline }: Source, threadId: string): Conversation {
  if (last?.threadId !== threadId || last.outline !== outline) {
    last = { outline, threadId, value: compute(outline, threadId) };
  }
  return last.value;
}

function compute({ messages, runs }: Snapshot["outline"], threadId: string): Conversation {
  const entries = withoutReplaced(messages.filter((entry) => threadOf(entry) === threadId));
  const byId = new Map(runs.map((run) => [run.run_id, run]));
  const items = itemsOf(entries, byId);
  const active = entries
    .map((entry) => byId.get(entry.run_id ?? ""))
    .filter((run): run is Run => run !== undefined && !isEnd(run.status));
  const activeRun = active.find((run) => run.status === "running") ?? active[0];
  return {
    items,
    first: items.find((item) => item.kind === "user")?.entry,
    oldest: entries.find((entry) => entry.message_id !== null)?.message_id ?? undefined,
    activeRunId: activeRun?.run_id,
  };
}

export const threadOf = (entry: ChatMessage) =>
  (entry.payload["thread_id"] as string | undefined) ?? entry.thread_id;

/** Link answers to questions; a run without text has an entry below its question too. */
function itemsOf(entries: readonly ChatMessage[], runs: ReadonlyMap<string, Run>): readonly Item[] {
  const asked = new Map<string, UserEntry>();
  const answered = new Set<string>();
  for (const entry of entries) {
    if (entry.role === "agent") {
      if (entry.run_id !== null) answered.add(entry.run_id);
      continue;
    }
    if (entry.run_id !== null) asked.set(`run ${entry.run_id}`, entry);
    if (entry.message_id !== null) asked.set(entry.message_id, entry);
  }
  return entries.flatMap((entry, index): readonly Item[] => {
    const run = entry.run_id === null ? undefined : runs.get(entry.run_id);
    if (entry.role === "agent") {
      const status = run?.status ?? entry.status;
      // A queued run is shown at its question; it has no text yet.
      if (status === "queued") return [];
      const question = asked.get(`run ${entry.run_id ?? ""}`) ?? asked.get(entry.reply_to ?? "");
      return [{ kind: "agent", key: entry.id, entry, run, status, question }];
    }
    const user: UserItem = { kind: "user", key: entry.id, entry, runStatus: run?.status, position: run?.position ?? null };
    const status = run?.status ?? entry.run_status;
    const isAnswered = entry.run_id !== null && answered.has(entry.run_id);
    // An answer of a version before 0.2 has no run: it follows its question.
    const isFollowed = status === "completed" && entries[index + 1]?.role === "agent";
    if (status === null || status === "queued" || isAnswered || isFollowed) return [user];
    const key = entry.run_id ?? `${entry.id} answer`;
    return [user, { kind: "agent", key, entry: undefined, run, status, question: entry }];
  });
}
