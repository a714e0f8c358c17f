// The user's conversations with their search, and the user's name. On a narrow screen it is a drawer.

import { type RefObject, useEffect, useRef } from "react";
import { CloseIcon, KeyboardIcon, LeaveIcon, PanelIcon, PlusIcon } from "../../shared/icons.tsx";
import { ThemeButton } from "../../shared/ThemeButton.tsx";
import { execute, namesOf, SHORTCUTS, type Command } from "../shortcuts.ts";
import { NotifyButton } from "./NotifyButton.tsx";
import { SearchBox } from "./SearchBox.tsx";
import { ThreadList } from "./ThreadList.tsx";
import type { Notifying } from "./useNotifications.ts";
import type { Panel } from "./usePanel.ts";
import type { ThreadListState } from "./useThreadList.ts";

interface Props {
  readonly list: ThreadListState;
  readonly current: string;
  /** The name of the user. */
  readonly user: string;
  readonly panel: Panel;
  readonly searchBox: RefObject<HTMLInputElement | null>;
  readonly notifying: Notifying;
  readonly onNew: () => void;
  /** Absent if the embedding page controls the sign-in. */
  readonly onSignOut: (() => void) | undefined;
}

const keysOf = (command: Command) => {
  const found = SHORTCUTS.find((shortcut) => shortcut.command === command);
  return found === undefined ? "" : namesOf(found).join("+");
};

export function Sidebar({ list, current, user, panel, searchBox, notifying, onNew, onSignOut }: Props) {
  const { isDrawer, isOpen, close } = panel;
  const closer = useRef<HTMLButtonElement>(null);
  useEffect(() => {
    if (isDrawer && isOpen) closer.current?.focus();
  }, [isDrawer, isOpen]);
  return (
    <>
      {isDrawer && isOpen && <div className="backdrop" onClick={close} aria-hidden="true" />}
      <nav className={isOpen ? "sidebar open" : "sidebar"} id="sidebar" aria-label="Conversations">
        <div className="sidebar-top">
          <button type="button" className="wide" title={`New conversation (${keysOf("new")})`} onClick={onNew}>
            <PlusIcon />
            New conversation
          </button>
          <button
            ref={closer}
            type="button"
            className="square"
            aria-label="Close conversations"
            title={isDrawer ? "Close" : `Hide the conversations (${keysOf("sidebar")})`}
            onClick={close}
          >
            {isDrawer ? <CloseIcon /> : <PanelIcon />}
          </button>
        </div>
        <SearchBox search={list.search} box={searchBox} keys={keysOf("search")} />
        <ThreadList list={list} current={current} onOpen={isDrawer ? close : stay} home={searchBox} />
        <div className="sidebar-end">
          <span className="avatar" aria-hidden="true">{String.fromCodePoint(user.codePointAt(0) ?? 63).toUpperCase()}</span>
          <span className="user-name" title={user} dir="auto">{user}</span>
          <NotifyButton notifying={notifying} />
          <button
            type="button"
            className="square only-wide"
            aria-label="Keyboard shortcuts"
            title={`Keyboard shortcuts (${keysOf("help")})`}
            onClick={() => execute("help")}
          >
            <KeyboardIcon />
          </button>
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

const stay = () => undefined;
