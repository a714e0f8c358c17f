// The days of the calendar in the user's time zone.

const DAY = 24 * 3600 * 1000;

/** The number of a local day. Days are counted by the calendar: some last 23 or 25 hours. */
export const dayOf = (time: Date) => Date.UTC(time.getFullYear(), time.getMonth(), time.getDate()) / DAY;

/** Milliseconds until the next local midnight. */
export const untilMidnight = (now: Date) =>
  new Date(now.getFullYear(), now.getMonth(), now.getDate() + 1).getTime() - now.getTime();
