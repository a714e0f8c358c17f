// The list of threads, grouped by the day of their newest update in the user's time zone.

import type { ListedThread } from "../../../src/index.ts";
import { dayOf } from "../day.ts";

export interface Group {
  readonly name: string;
  readonly threads: readonly ListedThread[];
}

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
