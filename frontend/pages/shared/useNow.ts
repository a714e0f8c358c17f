// The time, for countdowns.

import { useEffect, useState } from "react";

const TICK_MS = 500; // so that a countdown of seconds is at most half a second late

/** Milliseconds since 1970; renders again every half second while it ticks. */
export function useNow(isTicking: boolean): number {
  const [now, setNow] = useState(Date.now);
  useEffect(() => {
    if (!isTicking) return undefined;
    const tick = () => setNow(Date.now());
    const first = setTimeout(tick);
    const timer = setInterval(tick, TICK_MS);
    return () => {
      clearTimeout(first);
      clearInterval(timer);
    };
  }, [isTicking]);
  return now;
}
