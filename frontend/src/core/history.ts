/** Pages of a thread's history, merged into one list, oldest message first. */

import type { HistoryMessage } from "../protocol/messages.js";

export type Page = readonly HistoryMessage[];

/**
 * The list with a page merged into it: a newer page, an older one, or one that overlaps.
 *
 * @param isNewest Whether no message follows the page: known ones behind it have left the history.
 */
export function withPage(known: Page, page: Page, isNewest: boolean): Page {
  const [first] = page;
  const last = page.at(-1);
  const [oldest] = known;
  if (first === undefined || last === undefined) return isNewest ? page : known;
  if (oldest === undefined) return page;
  const ids = new Set(page.map((message) => message.message_id));
  const isInPage = (message: HistoryMessage): boolean => ids.has(message.message_id);
  const begin = known.findIndex(isInPage);
  if (begin < 0) {
    // The page lies wholly before the known messages, or an unknown number of messages lies in
    // between: then only the page is kept.
    return last.created_at <= oldest.created_at ? [...page, ...known] : page;
  }
  const end = known.findLastIndex(isInPage);
  // The page was read later than the known messages, so it replaces those that both have.
  const reachesEnd = isNewest || ids.has(known[known.length - 1]?.message_id ?? "");
  return [...known.slice(0, begin), ...page, ...(reachesEnd ? [] : known.slice(end + 1))];
}
