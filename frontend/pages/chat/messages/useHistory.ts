// Older messages of a thread: the client loads the newest page, the user asks for earlier ones.

import { useCallback, useEffect, useRef, useState } from "react";
import { useNetra } from "../../../src/react/index.ts";
import { conversationOf } from "./conversation.ts";

const PAGE = 50; // messages of the history at a time

interface History {
  readonly hasEarlier: boolean;
  readonly loadEarlier: () => void;
}

export function useHistory(threadId: string): History {
  const subscribe = useNetra((netra) => netra.subscribe);
  const loadThread = useNetra((netra) => netra.loadThread);
  const oldest = useNetra((netra) => conversationOf(netra, threadId).oldest);
  const [more, setMore] = useState<Readonly<Record<string, boolean>>>({});
  const paged = useRef(new Set<string>());

  useEffect(
    () =>
      subscribe("thread_history", ({ payload }) => {
        // Once earlier pages are loaded, the newest page does not say whether there are earlier ones.
        if (paged.current.has(payload.thread_id)) return;
        setMore((known) => ({ ...known, [payload.thread_id]: payload.has_more }));
      }),
    [subscribe],
  );

  const loadEarlier = useCallback(() => {
    if (oldest === undefined) return;
    paged.current.add(threadId);
    loadThread(threadId, { limit: PAGE, before: oldest }).then(
      (page) => setMore((known) => ({ ...known, [threadId]: page.has_more })),
      () => undefined, // The button stays, so the user can try again.
    );
  }, [loadThread, threadId, oldest]);
  return { hasEarlier: more[threadId] === true, loadEarlier };
}
