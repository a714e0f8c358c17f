/** Pages of a thread's history, put together to one list, oldest first. */

import type { HistoryMessage } from "../protocol/messages.js";

export type Page = readonly HistoryMessage[];

/** The list with a page in it: a newer one, an older one, or one that overlaps. */
export function withPage(known: Page, page: Page): Page {
  const [first] = page;
  const last = page.at(-1);
  const [oldest] = known;
  if (first === undefined || last === undefined) return known;
  if (oldest === undefined) return page;
  const told = new Set(page.map((message) => message.message_id));
  const isNew = (message: HistoryMessage): boolean => !told.has(message.message_id);
  const begin = known.findIndex((message) => !isNew(message));
  if (begin < 0) {
    // Strictly older, or so much newer that nobody knows what lies between: then only the page holds.
    return last.created_at <= oldest.created_at ? [...page, ...known] : page;
  }
  const end = known.findLastIndex((message) => !isNew(message));
  // The page is newer than what was known, so it wins where both have a message.
  const isNewest = told.has(known[known.length - 1]?.message_id ?? "");
  return [...known.slice(0, begin), ...page, ...(isNewest ? [] : known.slice(end + 1))];
}
