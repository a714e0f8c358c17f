// Deletes threads, with a time in which the user can undo that.

import { useCallback, useEffect, useMemo, useRef, useState, useSyncExternalStore } from "react";
import { RequestError, type ListedThread } from "../../../src/index.ts";
import { useNetra } from "../../../src/react/index.ts";
import { LATER } from "../later.ts";
import { Deletions, TAB } from "./deletions.ts";

const UNDO = 7_000; // ms
const HELD = 60_000; // ms, while the pointer or the focus is on the message
const GRACE = 2_000; // ms after which another tab deletes what a closed one has left
const RETRY = 5_000; // ms, where the server states no delay
const TRIES = 5;

export interface Undo {
  readonly id: string;
  readonly title: string;
}

export interface ThreadDeletion {
  /** The threads that are hidden. */
  readonly hidden: ReadonlySet<string>;
  /** The deletions of this tab that can be undone. */
  readonly undoable: readonly Undo[];
  readonly remove: (thread: Pick<ListedThread, "thread_id" | "title">) => void;
  readonly undo: (id: string) => void;
  /** Keeps a deletion undoable for longer, until `release`. */
  readonly hold: (id: string) => void;
  readonly release: (id: string) => void;
}

/** @param onFailed Called with the reason when a thread cannot be deleted, and is shown again. */
export function useDeletions(user: string, onFailed: (id: string, problem: string) => void): ThreadDeletion {
  const deletions = useMemo(() => new Deletions(user), [user]);
  const all = useSyncExternalStore(deletions.subscribe, deletions.all);
  const [titles, setTitles] = useState<ReadonlyMap<string, string>>(new Map());
  const forgetTitle = useCallback(
    (id: string) => setTitles((known) => new Map([...known].filter(([other]) => other !== id))),
    [],
  );
  useExecution(deletions, forgetTitle, onFailed);

  const remove = useCallback<ThreadDeletion["remove"]>(
    ({ thread_id, title }) => {
      setTitles((known) => new Map(known).set(thread_id, title));
      deletions.set(thread_id, Date.now() + UNDO);
    },
    [deletions],
  );
  const undo = useCallback(
    (id: string) => {
      forgetTitle(id);
      deletions.remove(id);
    },
    [deletions, forgetTitle],
  );
  const extend = useCallback(
    (id: string, ms: number) => {
      if (deletions.all().some(({ thread }) => thread === id)) deletions.set(id, Date.now() + ms);
    },
    [deletions],
  );
  const hold = useCallback((id: string) => extend(id, HELD), [extend]);
  const release = useCallback((id: string) => extend(id, UNDO), [extend]);
  const hidden = useMemo(() => new Set(all.map(({ thread }) => thread)), [all]);
  const undoable = useMemo(
    () =>
      all.flatMap(({ thread: id, tab }) => {
        const title = titles.get(id);
        return tab === TAB && title !== undefined ? [{ id, title }] : [];
      }),
    [all, titles],
  );
  return { hidden, undoable, remove, undo, hold, release };
}

/** Deletes the threads on the server: when they are due, and when the page is closed. */
function useExecution(
  deletions: Deletions,
  onBegun: (id: string) => void,
  onFailed: (id: string, problem: string) => void,
): void {
  const all = useSyncExternalStore(deletions.subscribe, deletions.all);
  const isConnected = useNetra((netra) => netra.isConnected);
  const isFollower = useNetra((netra) => netra.role === "follower");
  const deleteThread = useNetra((netra) => netra.deleteThread);
  const tries = useRef(new Map<string, number>());
  const open = useRef(new Set<string>()); // The client repeats an open request after a new connection.

  useEffect(() => {
    if (!isConnected) return undefined;
    const execute = (id: string) => {
      const count = (tries.current.get(id) ?? 0) + 1;
      tries.current.set(id, count);
      open.current.add(id);
      onBegun(id);
      deleteThread(id).then(
        () => {
          deletions.remove(id);
          tries.current.delete(id);
          open.current.delete(id);
        },
        (error: unknown) => {
          open.current.delete(id);
          const body = error instanceof RequestError ? error.body : null;
          if (body?.code === "CLOSED") return; // It is done when the page is opened again.
          if (body !== null && LATER.has(body.code) && count < TRIES) {
            deletions.set(id, Date.now() + (body.retry_after_ms ?? RETRY));
            return;
          }
          tries.current.delete(id);
          deletions.remove(id);
          // Another tab or device was faster.
          if (body?.code !== "THREAD_NOT_FOUND") onFailed(id, `Not deleted. ${body?.error ?? ""}`.trim());
        },
      );
    };
    const timers = all
      .filter(({ thread, tab }) => !open.current.has(thread) && (tab === TAB || !isFollower))
      .map(({ thread, due, tab }) => setTimeout(() => execute(thread), due + (tab === TAB ? 0 : GRACE) - Date.now()));
    return () => timers.forEach(clearTimeout);
  }, [all, isConnected, isFollower, deleteThread, deletions, onBegun, onFailed]);

  useEffect(() => {
    const onHide = () => {
      for (const { thread, tab } of deletions.all()) {
        // It stays stored until the server has answered.
        if (tab === TAB) deleteThread(thread).then(() => deletions.remove(thread), () => undefined);
      }
    };
    // Before the client itself reacts.
    addEventListener("pagehide", onHide, { capture: true });
    return () => {
      removeEventListener("pagehide", onHide, { capture: true });
      onHide();
    };
  }, [deletions, deleteThread]);
}
