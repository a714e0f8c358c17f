// The conversations by date, with the keys of the list, and what is shown where there are none.

import { type KeyboardEvent, type RefObject, useCallback, useEffect, useRef, useState } from "react";
import { RequestError, type ListedThread } from "../../../src/index.ts";
import { useNetra } from "../../../src/react/index.ts";
import { useMedia } from "../../shared/useMedia.ts";
import { groupsOf } from "./groups.ts";
import { ThreadItem } from "./ThreadItem.tsx";
import type { ThreadListState } from "./useThreadList.ts";
import { useToday } from "./useToday.ts";

interface Props {
  readonly list: ThreadListState;
  readonly current: string;
  readonly onOpen: () => void;
  /** Takes the focus that no conversation of the list can take. */
  readonly home: RefObject<HTMLElement | null>;
}

const PLACEHOLDERS = 6;

export function ThreadList({ list, current, onOpen, home }: Props) {
  const { shown, hasMore, problems, actions, search } = list;
  const groups = groupsOf(shown, useToday());
  const hasMenu = useMedia("(hover: none)");
  const area = useRef<HTMLDivElement>(null);
  const { remove } = actions;

  const onDelete = useCallback(
    (thread: ListedThread, row: HTMLElement | null) => {
      const links = linksIn(area.current);
      const at = links.findIndex((link) => row?.contains(link));
      (links[at + 1] ?? links[at - 1] ?? home.current)?.focus();
      remove(thread);
    },
    [remove, home],
  );
  const onKeyDown = (event: KeyboardEvent) => {
    const links = linksIn(area.current);
    const at = links.indexOf(event.target as HTMLElement);
    if (at < 0) return;
    const next = { ArrowDown: links[at + 1], ArrowUp: links[at - 1] ?? home.current, Home: links[0], End: links.at(-1) };
    if (!Object.hasOwn(next, event.key)) return;
    event.preventDefault();
    next[event.key as keyof typeof next]?.focus();
  };
  return (
    <div
      className={search.isSearching ? "threads stale" : "threads"}
      ref={area}
      onKeyDown={onKeyDown}
      aria-busy={search.isSearching}
    >
      <ListNote list={list} />
      {groups.map(({ name, threads }) => (
        <section key={name} aria-label={name}>
          <h2 aria-hidden="true">{name}</h2>
          <ul>
            {threads.map((thread) => (
              <ThreadItem
                key={thread.thread_id}
                thread={thread}
                isCurrent={thread.thread_id === current}
                problem={problems.get(thread.thread_id)}
                hasMenu={hasMenu}
                onOpen={onOpen}
                onRename={actions.rename}
                onDelete={onDelete}
              />
            ))}
          </ul>
        </section>
      ))}
      {hasMore && <MoreButton list={list} area={area} />}
    </div>
  );
}

export const linksIn = (area: HTMLElement | null) => [...(area?.querySelectorAll<HTMLElement>("li > a") ?? [])];

/** The state of a list without conversations. */
function ListNote({ list: { shown, isLoaded, error, search } }: Pick<Props, "list">) {
  const isConnected = useNetra((netra) => netra.isConnected);
  const status = useNetra((netra) => netra.status);
  const { found, isSearching } = search;
  if (found !== null) {
    const count = shown.length === 1 ? "1 conversation" : `${shown.length}${found.hasMore ? " or more" : ""} conversations`;
    const text = found.error ?? (isSearching ? "Searching…" : shown.length === 0 ? `No matches for “${found.query}”.` : `${count} found`);
    const isSeen = shown.length === 0 || found.error !== null;
    return <p className={isSeen ? "note" : "only-read"} aria-live="polite" dir="auto">{text}</p>;
  }
  if (shown.length > 0) return null;
  if (isLoaded) return <p className="note">Your conversations are listed here.</p>;
  if (error !== null) return <p className="note" role="alert">The conversations cannot be listed. {error.error}</p>;
  if (!isConnected && status !== "CONNECTING") {
    return <p className="note">You are offline. Your conversations are listed here once you are connected.</p>;
  }
  return (
    <div className="placeholders">
      <p className="only-read">Loading the conversations</p>
      {Array.from({ length: PLACEHOLDERS }, (_, index) => <span key={index} />)}
    </div>
  );
}

/** Loads older conversations; the focus goes to the first of them. */
function MoreButton({ list, area }: Pick<Props, "list"> & { readonly area: RefObject<HTMLDivElement | null> }) {
  const { shown, loadMore } = list;
  const [problem, setProblem] = useState("");
  const [isLoading, setLoading] = useState(false);
  const button = useRef<HTMLButtonElement>(null);
  const before = useRef<number | null>(null); // the number of conversations, when the button was pressed
  useEffect(() => {
    const { current: count } = before;
    if (count === null || shown.length <= count) return;
    before.current = null;
    if (document.activeElement === button.current) linksIn(area.current)[count]?.focus();
  }, [shown, area]);
  // The button is removed with the last page.
  useEffect(() => () => {
    const { current: count } = before;
    if (count !== null && document.activeElement === document.body) linksIn(area.current)[count]?.focus();
  }, [area]);
  const load = () => {
    if (isLoading) return;
    before.current = shown.length;
    setProblem("");
    setLoading(true);
    loadMore()
      .catch((error: unknown) => setProblem(error instanceof RequestError ? error.body.error : "It failed."))
      .finally(() => setLoading(false));
  };
  return (
    <>
      <button ref={button} type="button" className="quiet more" aria-disabled={isLoading} onClick={load}>
        {isLoading ? "Loading…" : "Show more"}
      </button>
      {problem && <p className="note" role="alert">{problem}</p>}
    </>
  );
}
