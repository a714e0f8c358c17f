/** The list of a user's threads, the newest update first. */

import type { ControlPayloads, ErrorBody, ListedThread } from "../protocol/messages.js";

export interface ThreadList {
  readonly threads: readonly ListedThread[];
  /** Whether there are older threads than those in the list. */
  readonly hasMore: boolean;
  /** False until the server has answered once. */
  readonly isLoaded: boolean;
  readonly error: ErrorBody | null;
}

/** The list with its newest threads read again; the older ones that were read before stay. */
export function withThreads(list: ThreadList, page: ControlPayloads["thread_list"]): ThreadList {
  const { threads, has_more } = page;
  const ids = new Set(threads.map(({ thread_id }) => thread_id));
  const oldest = threads.at(-1)?.updated_at ?? 0;
  const older = has_more
    ? list.threads.filter(({ thread_id, updated_at }) => !ids.has(thread_id) && updated_at <= oldest)
    : [];
  const hasMore = has_more && (older.length === 0 || list.hasMore);
  return { threads: [...threads, ...older], hasMore, isLoaded: true, error: null };
}

/** The list after a change. The same object if it changes nothing. */
export function withChanged(list: ThreadList, { thread_id, thread }: ControlPayloads["thread_changed"]): ThreadList {
  const others = list.threads.filter((other) => other.thread_id !== thread_id);
  const isKnown = others.length < list.threads.length;
  if (thread === undefined) return isKnown ? { ...list, threads: others } : list;
  const at = others.findIndex(({ updated_at }) => updated_at <= thread.updated_at);
  // A thread that is older than all in the list is on a later page.
  if (at < 0 && list.hasMore && !isKnown) return list;
  const place = at < 0 ? others.length : at;
  return { ...list, threads: [...others.slice(0, place), thread, ...others.slice(place)] };
}
