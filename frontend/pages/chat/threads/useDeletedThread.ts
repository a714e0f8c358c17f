// The open thread when it is deleted, here or on another device, and when that is undone.

import { useCallback, useEffect, useRef } from "react";
import { useNetra } from "../../../src/react/index.ts";
import { openThread } from "./address.ts";
import type { ThreadDeletion } from "./useDeletions.ts";

/**
 * Leaves a thread that is deleted.
 *
 * @param onLeave Opens a new thread.
 * @returns Undoes a deletion; the thread is opened again if nothing else was opened meanwhile.
 */
export function useDeletedThread(
  threadId: string,
  { hidden, undo }: Pick<ThreadDeletion, "hidden" | "undo">,
  onLeave: () => void,
): (id: string) => void {
  const subscribe = useNetra((netra) => netra.subscribe);
  const left = useRef<{ readonly thread: string; address: string } | null>(null);

  useEffect(
    () =>
      subscribe("thread_changed", ({ payload }) => {
        if (payload.change === "deleted" && payload.thread_id === threadId) onLeave();
      }),
    [subscribe, threadId, onLeave],
  );
  const isHidden = hidden.has(threadId);
  useEffect(() => {
    if (!isHidden) return;
    onLeave();
    left.current = { thread: threadId, address: location.hash };
  }, [isHidden, threadId, onLeave]);
  return useCallback(
    (id: string) => {
      undo(id);
      const { thread, address } = left.current ?? {};
      if (thread === id && address === location.hash) openThread(id);
    },
    [undo],
  );
}
