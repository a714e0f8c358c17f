// The unsent text of the open thread.

import { useCallback, useEffect, useSyncExternalStore } from "react";
import { Drafts } from "./drafts.ts";

// Absent in a page without https, whatever its type says.
const locks = navigator.locks as LockManager | undefined;

export const drafts = new Drafts(locks);

export function useDraft(user: string, threadId: string): readonly [string, (text: string) => void] {
  const text = useSyncExternalStore(drafts.subscribe, () => drafts.read(user, threadId));
  const setText = useCallback((next: string) => drafts.write(user, threadId, next), [user, threadId]);
  useEffect(() => void drafts.takeOver(user, threadId), [user, threadId]);
  return [text, setText];
}
