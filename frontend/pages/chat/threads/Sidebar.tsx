// The list of the user's conversations, and the user's name.

import { useEffect, useRef } from "react";
import type { Threads } from "../../../src/react/index.ts";
import { CloseIcon, LeaveIcon, PlusIcon } from "../../shared/icons.tsx";
import { ThemeButton } from "../../shared/ThemeButton.tsx";
import { ThreadItem } from "./ThreadItem.tsx";

interface Props {
  readonly threads: Threads;
  readonly current: string;
  readonly user: string;
  readonly isOpen: boolean;
  readonly onClose: () => void;
  readonly onNew: () => void;
  /** Absent if the embedding page controls the sign-in. */
  readonly onSignOut: (() => void) | undefined;
}

export function Sidebar({ threads, current, user, isOpen, onClose, onNew, onSignOut }: Props) {
  const { threads: list, hasMore, loadMore, rename, remove } = threads;
  const close = useRef<HTMLButtonElement>(null);
  useEffect(() => {
    if (isOpen) close.current?.focus();
  }, [isOpen]);
  return (
    <>
      {isOpen && <div className="backdrop" onClick={onClose} aria-hidden="true" />}
      <nav className={isOpen ? "sidebar open" : "sidebar"} id="sidebar" aria-label="Conversations">
        <div className="sidebar-top">
          <button type="button" className="wide" onClick={onNew}>
            <PlusIcon />
            New conversation
          </button>
          <button
            ref={close}
            type="button"
            className="square only-narrow"
            aria-label="Close conversations"
            onClick={onClose}
          >
            <CloseIcon />
          </button>
        </div>
        {list.length === 0 && <p className="note">Your conversations are listed here.</p>}
        <ul className="threads">
          {list.map((thread) => (
            <ThreadItem
              key={thread.thread_id}
              thread={thread}
              isCurrent={thread.thread_id === current}
              onOpen={onClose}
              onRename={rename}
              onDelete={remove}
            />
          ))}
          {hasMore && (
            <li>
              <button type="button" className="quiet" onClick={() => void loadMore().catch(() => undefined)}>
                Show more
              </button>
            </li>
          )}
        </ul>
        <div className="sidebar-end">
          <span className="avatar" aria-hidden="true">{(user[0] ?? "?").toUpperCase()}</span>
          <span className="user-name" title={user}>{user}</span>
          <ThemeButton />
          {onSignOut && (
            <button type="button" className="square" aria-label="Sign out" title="Sign out" onClick={onSignOut}>
              <LeaveIcon />
            </button>
          )}
        </div>
      </nav>
    </>
  );
}
