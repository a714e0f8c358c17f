// The list of threads, grouped by the day of their newest update in the user's time zone.

import type { ListedThread } from "../../../src/index.ts";

export interface Group {
  readonly name: string;
  readonly threads: readonly ListedThread[];
}

const DAY = 24 * 3600 * 1000;

/** The number of a local day. Days are counted by the calendar: some last 23 or 25 hours. */
export const dayOf = (time: Date) => Date.UTC(time.getFullYear(), time.getMonth(), time.getDate()) / DAY;

/** Milliseconds until the next local midnight. */
export const untilMidnight = (now: Date) =>
  new Date(now.getFullYear(), now.getMonth(), now.getDate() + 1).getTime() - now.getTime();

/** @param threads The newest update first. */
export function groupsOf(threads: readonly ListedThread[], now: Date): readonly Group[] {
  const groups: { name: string; threads: ListedThread[] }[] = [];
  for (const thread of threads) {
    const name = nameOf(new Date(thread.updated_at * 1000), now);
    const last = groups.at(-1);
    if (last?.name === name) last.threads.push(thread);
    else groups.push({ name, threads: [thread] });
  }
  return groups;
}

function nameOf(time: Date, now: Date): string {
  const days = dayOf(now) - dayOf(time);
  if (days <= 0) return "Today"; // the server's clock may be ahead
  if (days === 1) return "Yesterday";
  if (days <= 7) return "Previous 7 days";
  if (days <= 30) return "Previous 30 days";
  const year = time.getFullYear() === now.getFullYear() ? {} : ({ year: "numeric" } as const);
  return new Intl.DateTimeFormat("en", { month: "long", ...year }).format(time);
}
