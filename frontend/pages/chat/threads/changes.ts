// What has happened in the threads between two states of their list.

import type { ListedThread } from "../../../src/index.ts";

export interface News {
  readonly thread: ListedThread;
  readonly kind: "asks" | "answer";
}

/** The threads with a new question, or a new answer that is unread. */
export function newsOf(before: readonly ListedThread[], after: readonly ListedThread[]): readonly News[] {
  const known = new Map(before.map((thread) => [thread.thread_id, thread]));
  const newest = before[0]?.updated_at ?? 0;
  return after.flatMap((thread): News[] => {
    const old = known.get(thread.thread_id);
    // Older threads are listed on demand; what they have is not new.
    if (old === undefined && thread.updated_at <= newest) return [];
    if (thread.asks && !old?.asks) return [{ thread, kind: "asks" }];
    return thread.unread > (old?.unread ?? 0) ? [{ thread, kind: "answer" }] : [];
  });
}

/** The number of threads that wait for the user. @param seen The thread that the user sees. */
export const waitingIn = (threads: readonly ListedThread[], seen: string | null) =>
  threads.filter(({ thread_id, asks, unread }) => thread_id !== seen && (asks || unread > 0)).length;
