// Messages that an edit under way is about to replace.

import type { ChatMessage, UserEntry } from "../../../src/index.ts";

/**
 * The messages without those that a message which waits for its confirmation replaces. They are shown
 * again if the server refuses it.
 */
export function withoutReplaced(entries: readonly ChatMessage[]): readonly ChatMessage[] {
  const begins = entries.filter(isUnderWay).map(({ payload }) => indexOf(entries, payload["replaces"]));
  const begin = Math.min(...begins.filter((index) => index >= 0));
  if (begin === Infinity) return entries;
  return entries.filter((entry, index) => index < begin || (entry.role === "user" && entry.message_id === null));
}

const isUnderWay = (entry: ChatMessage): entry is UserEntry =>
  entry.role === "user" && entry.message_id === null && entry.status !== "failed" && "replaces" in entry.payload;

const indexOf = (entries: readonly ChatMessage[], id: unknown) => entries.findIndex(({ message_id }) => message_id === id);
