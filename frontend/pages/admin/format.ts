// Numbers, times and sizes as texts.

const NUMBER = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const SMALL = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });
const NONE = "–";

export const count = (value: number): string => NUMBER.format(value);

/** A rate or a mean, with one digit while it is small. */
export const amount = (value: number): string => (value < 100 ? SMALL : NUMBER).format(value);

/** A share from 0 to 1 as percent; 100 % only if it is all. */
export function percent(share: number): string {
  const rounded = share < 1 ? Math.min(Math.floor(share * 1000) / 10, 99.9) : 100;
  return `${SMALL.format(rounded)} %`;
}

/** A time in seconds: `8 ms`, `1.2 s`, `45 s`, `3 min`, `2 h 5 min`, `3 d 4 h`. */
export function time(seconds: number): string {
  if (seconds < 1) return `${Math.round(seconds * 1000)} ms`;
  if (seconds < 9.95) return `${seconds.toFixed(1)} s`;
  if (seconds < 99.5) return `${Math.round(seconds)} s`;
  return long(seconds, ["min", 60], ["h", 3600], ["d", 86_400]);
}

/** An age or a time that is left, in whole seconds: `0 s`, `45 s`, `3 min`. */
export const age = (seconds: number): string =>
  seconds < 99.5 ? `${Math.max(0, Math.round(seconds))} s` : time(seconds);

type Unit = readonly [name: string, seconds: number];

/** The largest unit that fits, and the next smaller one. */
function long(seconds: number, minutes: Unit, hours: Unit, days: Unit): string {
  const whole = ([name, size]: Unit) => `${Math.floor(seconds / size)} ${name}`;
  const rest = ([name, size]: Unit, [, unit]: Unit) => {
    const left = Math.floor((seconds % unit) / size);
    return left === 0 ? "" : ` ${left} ${name}`;
  };
  if (seconds < hours[1]) return whole(minutes);
  if (seconds < days[1]) return whole(hours) + rest(minutes, hours);
  return whole(days) + rest(hours, days);
}

const UNITS = ["B", "KiB", "MiB", "GiB"] as const;

/** A number of bytes: `512 B`, `1.5 MiB`. */
export function bytes(value: number): string {
  let left = value;
  let unit = 0;
  while (left >= 1024 && unit < UNITS.length - 1) {
    left /= 1024;
    unit += 1;
  }
  return `${unit === 0 ? NUMBER.format(left) : amount(left)} ${UNITS[unit] ?? ""}`;
}

/** A value that may be missing. */
export const orNone = (value: number | null | undefined, format: (value: number) => string): string =>
  value === null || value === undefined ? NONE : format(value);
