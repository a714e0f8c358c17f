// The day above the first message of a day.

import { useToday } from "../threads/useToday.ts";
import { dayOf, dayText } from "./time.ts";

interface Props {
  /** Unix seconds; 0 if unknown. */
  readonly timestamp: number;
  /** Of the message before, if there is one. */
  readonly before: number | undefined;
}

export function DaySeparator({ timestamp, before }: Props) {
  const today = useToday();
  if (timestamp === 0) return null;
  const day = dayOf(timestamp * 1000);
  if (before !== undefined && (before === 0 || dayOf(before * 1000) === day)) return null;
  return (
    <p className="day">
      <time dateTime={new Date(timestamp * 1000).toISOString()}>{dayText(day, today.getTime())}</time>
    </p>
  );
}
