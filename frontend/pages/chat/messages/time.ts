// The times of messages, in the user's own zone and language.

const DAY = 86_400_000; // ms

/** The begin of the day of a time, in milliseconds. */
export function dayOf(ms: number): number {
  return new Date(ms).setHours(0, 0, 0, 0);
}

/** A day as the user would name it: today, yesterday, a weekday of the last week, or a date. */
export function dayText(day: number, now: number, language?: string): string {
  const ago = Math.round((dayOf(now) - day) / DAY);
  if (ago === 0 || ago === 1) {
    const text = new Intl.RelativeTimeFormat(language ?? "en", { numeric: "auto" }).format(-ago, "day");
    return text.charAt(0).toUpperCase() + text.slice(1);
  }
  const date = new Date(day);
  if (ago > 1 && ago < 7) return date.toLocaleDateString(language, { weekday: "long" });
  const isThisYear = date.getFullYear() === new Date(now).getFullYear();
  return date.toLocaleDateString(language, { day: "numeric", month: "long", ...(isThisYear ? {} : { year: "numeric" }) });
}

export const timeText = (ms: number) => new Date(ms).toLocaleTimeString([], { timeStyle: "short" });
export const longTime = (ms: number) => new Date(ms).toLocaleString([], { dateStyle: "full", timeStyle: "short" });
