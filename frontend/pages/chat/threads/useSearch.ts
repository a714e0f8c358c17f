// The search in titles and messages, which the server does.

import { useCallback, useEffect, useState } from "react";
import { RequestError, type ListedThread } from "../../../src/index.ts";
import { useNetra } from "../../../src/react/index.ts";

const TYPING = 250; // ms after a key: at most four requests a second, of the ten that the server answers
const BUSY = 1_000; // ms, where a busy server states no delay
export const QUERY_CHARACTERS = 200; // that the server accepts

export interface Search {
  readonly text: string;
  readonly setText: (text: string) => void;
  /** Null: there is no search, and the whole list is shown. */
  readonly found: Found | null;
  readonly isSearching: boolean;
  /** Rejects with `RequestError`. */
  readonly loadMore: () => Promise<void>;
}

interface Found {
  readonly query: string;
  readonly threads: readonly ListedThread[];
  readonly hasMore: boolean;
  readonly error: string | null;
}

const nothing = (query: string, error: string | null = null): Found => ({ query, threads: [], hasMore: false, error });

export function useSearch(): Search {
  const listThreads = useNetra((netra) => netra.listThreads);
  const isConnected = useNetra((netra) => netra.isConnected);
  const [text, setText] = useState("");
  const [found, setFound] = useState<Found | null>(null);
  const query = text.trim();

  useEffect(() => {
    if (!query || !isConnected) return undefined;
    let isOver = false;
    let timer = setTimeout(ask, TYPING);
    function ask(): void {
      listThreads({ query }).then(
        ({ threads, has_more }) => {
          if (!isOver) setFound({ query, threads, hasMore: has_more, error: null });
        },
        (error: unknown) => {
          if (isOver) return;
          const { code, error: text = "It failed.", retry_after_ms = BUSY } = error instanceof RequestError ? error.body : { code: "" };
          if (code === "RATE_LIMIT_EXCEEDED") timer = setTimeout(ask, retry_after_ms);
          else setFound(nothing(query, text));
        },
      );
    }
    return () => {
      isOver = true;
      clearTimeout(timer);
    };
  }, [query, isConnected, listThreads]);

  useChanges(setFound);

  const before = found?.threads.at(-1)?.thread_id;
  const loadMore = useCallback(async () => {
    if (before === undefined) return;
    const { threads, has_more } = await listThreads({ query, before });
    setFound((now) => (now?.query === query ? { ...now, threads: [...now.threads, ...threads], hasMore: has_more } : now));
  }, [listThreads, query, before]);

  if (!query) return { text, setText, found: null, isSearching: false, loadMore };
  const isSearching = found?.query !== query && isConnected;
  const offline = found?.query === query || isConnected ? null : nothing(query, "You are offline. The search works again once you are connected.");
  return { text, setText, found: offline ?? found ?? nothing(query), isSearching, loadMore };
}

/** Keeps what was found up to date. */
function useChanges(setFound: (change: (found: Found | null) => Found | null) => void): void {
  const subscribe = useNetra((netra) => netra.subscribe);
  useEffect(
    () =>
      subscribe("thread_changed", ({ payload: { thread_id, thread } }) =>
        setFound((found) => {
          if (!found?.threads.some((one) => one.thread_id === thread_id)) return found;
          const threads = found.threads.flatMap((one) => (one.thread_id !== thread_id ? [one] : thread ? [thread] : []));
          return { ...found, threads };
        }),
      ),
    [subscribe, setFound],
  );
}
