// The thread in the page's address.

import { useEffect, useState, useSyncExternalStore } from "react";
import { addressOf, newThreadId, onThreadChange, threadInAddress } from "./address.ts";

/** The thread in the address; if there is none, a new one is put there. */
export function useThreadId(): string {
  const found = useSyncExternalStore(onThreadChange, threadInAddress);
  const [fresh] = useState(newThreadId);
  useEffect(() => {
    if (found === null) history.replaceState(null, "", addressOf(fresh));
  }, [found, fresh]);
  return found ?? fresh;
}
