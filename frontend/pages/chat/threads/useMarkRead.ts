// The mark up to which the user has read the open thread.

import { useEffect } from "react";
import { useNetra } from "../../../src/react/index.ts";
import { useVisible } from "./useVisible.ts";

/** Marks a thread as read while it is visible. @param unread The number of answers after the mark. */
export function useMarkRead(threadId: string, unread: number, isRunning: boolean): void {
  const loadThread = useNetra((netra) => netra.loadThread);
  const markRead = useNetra((netra) => netra.markRead);
  const isSeen = useVisible();
  const isDue = isSeen && unread > 0 && !isRunning;
  useEffect(() => {
    if (!isDue) return;
    // Only the history has the id of a streamed answer.
    loadThread(threadId)
      .then(({ messages }) => messages.findLast(({ role }) => role === "agent"))
      .then((answer) => answer && markRead(threadId, answer.message_id))
      .catch(() => undefined); // The mark stays, and is set with the next answer.
  }, [threadId, isDue, unread, loadThread, markRead]);
}
