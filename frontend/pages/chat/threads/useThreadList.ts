// The list of threads with what the user does to it: the search, renaming, deleting and undoing that.

import { useCallback, useMemo, useState } from "react";
import { RequestError, type ListedThread } from "../../../src/index.ts";
import { useNetra, useThreads, type Threads } from "../../../src/react/index.ts";
import { useDeletions, type ThreadDeletion } from "./useDeletions.ts";
import { type Search, useSearch } from "./useSearch.ts";

export interface ThreadActions {
  readonly rename: (id: string, title: string) => Promise<void>;
  readonly remove: (thread: ListedThread) => void;
}

export interface ThreadListState extends Pick<Threads, "isLoaded" | "error"> {
  /** All that are not hidden, whatever the search finds. */
  readonly threads: readonly ListedThread[];
  /** Those that the list shows. */
  readonly shown: readonly ListedThread[];
  readonly hasMore: boolean;
  readonly loadMore: () => Promise<void>;
  readonly search: Search;
  readonly actions: ThreadActions;
  readonly deletion: ThreadDeletion;
  /** What went wrong with a thread, by its id. */
  readonly problems: ReadonlyMap<string, string>;
}

export function useThreadList(user: string): ThreadListState {
  const { threads: all, hasMore, isLoaded, error, loadMore } = useThreads();
  const renameThread = useNetra((netra) => netra.renameThread);
  const search = useSearch();
  const [problems, setProblems] = useState<ReadonlyMap<string, string>>(new Map());
  const setProblem = useCallback((id: string, problem: string | null) => {
    setProblems((known) => {
      const others = [...known].filter(([other]) => other !== id);
      return new Map(problem === null ? others : [...others, [id, problem]]);
    });
  }, []);
  const deletion = useDeletions(user, setProblem);
  const { hidden, remove } = deletion;

  const actions = useMemo<ThreadActions>(
    () => ({
      rename: (id, title) => {
        setProblem(id, null);
        return renameThread(id, title).catch((failure: unknown) => {
          setProblem(id, `Not renamed. ${failure instanceof RequestError ? failure.body.error : ""}`.trim());
        });
      },
      remove: (thread) => {
        setProblem(thread.thread_id, null);
        remove(thread);
      },
    }),
    [renameThread, remove, setProblem],
  );
  const { found } = search;
  const threads = useMemo(() => all.filter(({ thread_id }) => !hidden.has(thread_id)), [all, hidden]);
  const shown = useMemo(
    () => found?.threads.filter(({ thread_id }) => !hidden.has(thread_id)) ?? threads,
    [found, threads, hidden],
  );
  return {
    threads,
    shown,
    hasMore: found?.hasMore ?? hasMore,
    loadMore: found === null ? loadMore : search.loadMore,
    isLoaded,
    error,
    search,
    actions,
    deletion,
    problems,
  };
}
