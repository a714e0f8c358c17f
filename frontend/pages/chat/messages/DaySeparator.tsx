// The day above the first message of a day.

import { dayOf } from "../day.ts";
import { useToday } from "../threads/useToday.ts";
import { dayText } from "./time.ts";

interface Props {
  /** Unix seconds; 0 if unknown. */
  readonly timestamp: number;
  /** Of the message before, if there is one. */
  readonly before: number | undefined;
}

export function DaySeparator({ timestamp, before }: Props) {
  const today = useToday();
  if (timestamp === 0) return null;
  const time = timeOf(timestamp);
  if (before !== undefined && (before === 0 || dayOf(timeOf(before)) === dayOf(time))) return null;
  return (
    <p className="day">
      <time dateTime={time.toISOString()}>{dayText(time, today)}</time>
    </p>
  );
}

const timeOf = (seconds: number) => new Date(seconds * 1000);
