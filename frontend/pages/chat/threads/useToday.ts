// The current day, which may change while the page is open.

import { useMemo, useSyncExternalStore } from "react";
import { dayOf, untilMidnight } from "../day.ts";

/** A time of the current local day: another one after midnight. */
export function useToday(): Date {
  const day = useSyncExternalStore(onDay, () => dayOf(new Date()));
  // eslint-disable-next-line react-hooks/exhaustive-deps -- the time is that of the day
  return useMemo(() => new Date(), [day]);
}

function onDay(run: () => void): () => void {
  let timer: ReturnType<typeof setTimeout>;
  const wait = () => {
    timer = setTimeout(() => {
      run();
      wait();
    }, untilMidnight(new Date()));
  };
  wait();
  // A computer that slept is late with its timers.
  document.addEventListener("visibilitychange", run);
  return () => {
    clearTimeout(timer);
    document.removeEventListener("visibilitychange", run);
  };
}
