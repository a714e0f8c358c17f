// The times of messages, in the user's own zone and language.

import { dayOf } from "../day.ts";

/** The day of a time as the user would name it: today, yesterday, a weekday of the last week, or a date. */
export function dayText(time: Date, now: Date, language?: string): string {
  const ago = dayOf(now) - dayOf(time);
  if (ago === 0 || ago === 1) {
    const text = new Intl.RelativeTimeFormat(language ?? "en", { numeric: "auto" }).format(-ago, "day");
    return text.charAt(0).toUpperCase() + text.slice(1);
  }
  if (ago > 1 && ago < 7) return time.toLocaleDateString(language, { weekday: "long" });
  const isThisYear = time.getFullYear() === now.getFullYear();
  return time.toLocaleDateString(language, { day: "numeric", month: "long", ...(isThisYear ? {} : { year: "numeric" }) });
}

export const timeText = (ms: number) => new Date(ms).toLocaleTimeString([], { timeStyle: "short" });
export const longTime = (ms: number) => new Date(ms).toLocaleString([], { dateStyle: "full", timeStyle: "short" });
