// Older messages of a thread: the client loads the newest page, the user asks for earlier ones.

import { useCallback, useEffect, useRef, useState } from "react";
import { useNetra } from "../../../src/react/index.ts";
import { conversationOf } from "./conversation.ts";

const PAGE = 50; // messages of the history at a time

/** `failed` until the next attempt; `loaded`: the number of messages of the last page. */
type Progress = "none" | "loading" | "failed" | { readonly loaded: number };

interface History {
  readonly hasEarlier: boolean;
  readonly progress: Progress;
  readonly loadEarlier: () => void;
}

export function useHistory(threadId: string): History {
  const subscribe = useNetra((netra) => netra.subscribe);
  const loadThread = useNetra((netra) => netra.loadThread);
  const oldest = useNetra((netra) => conversationOf(netra, threadId).oldest);
  const [more, setMore] = useState<Readonly<Record<string, boolean>>>({});
  /** By thread: the pages of several may be loaded at once. */
  const [all, setAll] = useState<ReadonlyMap<string, Progress>>(new Map());
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

  const progress = all.get(threadId) ?? "none";
  const isLoading = progress === "loading";
  // The result is reported once.
  useEffect(
    () => () => setAll((known) => new Map([...known].filter(([id, value]) => id !== threadId || value === "loading"))),
    [threadId],
  );
  const loadEarlier = useCallback(() => {
    if (oldest === undefined || isLoading) return;
    const report = (value: Progress) => setAll((known) => new Map(known).set(threadId, value));
    report("loading");
    paged.current.add(threadId);
    loadThread(threadId, { limit: PAGE, before: oldest }).then(
      (page) => {
        report({ loaded: page.messages.length });
        setMore((known) => ({ ...known, [threadId]: page.has_more }));
      },
      () => report("failed"),
    );
  }, [loadThread, threadId, oldest, isLoading]);
  return { hasEarlier: more[threadId] === true, progress, loadEarlier };
}
