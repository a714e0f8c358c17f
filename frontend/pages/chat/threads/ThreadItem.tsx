// One conversation in the list: its title, its state, and what can be done with it. A screen without a
// pointer that hovers has a menu instead of the buttons.

import { type KeyboardEvent, memo, type MouseEvent, useEffect, useRef, useState } from "react";
import type { ListedThread } from "../../../src/index.ts";
import { BinIcon, PenIcon } from "../../shared/icons.tsx";
import { Menu } from "../../shared/Menu.tsx";
import { addressOf, openThread } from "./address.ts";
import { RenameForm } from "./RenameForm.tsx";
import type { ThreadActions } from "./useThreadList.ts";

interface Props {
  readonly thread: ListedThread;
  readonly isCurrent: boolean;
  readonly problem: string | undefined;
  readonly hasMenu: boolean;
  readonly onOpen: () => void;
  readonly onRename: ThreadActions["rename"];
  /** @param row The element that is about to be removed. */
  readonly onDelete: (thread: ListedThread, row: HTMLElement | null) => void;
}

export const ThreadItem = memo(function ThreadItem(props: Props) {
  const { thread, isCurrent, problem, hasMenu, onOpen, onRename, onDelete } = props;
  const { thread_id: id } = thread;
  const [isRenaming, setRenaming] = useState(false);
  const [newTitle, setNewTitle] = useState<string | null>(null); // that the server has not confirmed
  const row = useRef<HTMLLIElement>(null);
  const link = useRef<HTMLAnchorElement>(null);
  const isFocusDue = useRef(false);
  const title = newTitle ?? thread.title;
  const mark = markOf(thread, isCurrent);

  useEffect(() => {
    if (!isRenaming && isFocusDue.current) link.current?.focus();
    isFocusDue.current = false;
  }, [isRenaming]);

  const rename = () => setRenaming(true);
  const remove = () => onDelete(thread, row.current);
  const onDone = (next: string | null, byKey: boolean) => {
    isFocusDue.current = byKey;
    setRenaming(false);
    if (next === null) return;
    setNewTitle(next);
    void onRename(id, next).then(() => setNewTitle(null));
  };
  const onKeyDown = (event: KeyboardEvent) => {
    if (event.key === "F2") rename();
    else if (event.key === "Delete") remove();
    else return;
    event.preventDefault();
  };
  const onClick = ({ ctrlKey, metaKey, shiftKey, altKey }: MouseEvent) => {
    if (!ctrlKey && !metaKey && !shiftKey && !altKey) openThread(id); // else in another tab or window
    onOpen();
  };
  const onDoubleClick = (event: MouseEvent) => {
    event.preventDefault();
    rename();
  };
  return (
    <li ref={row}>
      {isRenaming ? (
        <RenameForm title={title} onDone={onDone} />
      ) : (
        <>
          <a
            ref={link}
            href={addressOf(id)}
            aria-current={isCurrent ? "page" : undefined}
            dir="auto"
            title={title}
            onClick={onClick}
            onDoubleClick={onDoubleClick}
            onKeyDown={onKeyDown}
          >
            {title}
          </a>
          {mark && <span className={`mark ${mark.kind}`} role="img" aria-label={mark.text} title={mark.text} />}
          {hasMenu ? (
            <Menu
              label={`Actions: ${title}`}
              items={[
                { text: "Rename", name: `Rename: ${title}`, icon: <PenIcon />, onPick: rename },
                { text: "Delete", name: `Delete: ${title}`, icon: <BinIcon />, onPick: remove, isHarmful: true },
              ]}
            />
          ) : (
            <>
              <button type="button" className="square" aria-label={`Rename: ${title}`} title="Rename" onClick={rename}>
                <PenIcon />
              </button>
              <button type="button" className="square" aria-label={`Delete: ${title}`} title="Delete" onClick={remove}>
                <BinIcon />
              </button>
            </>
          )}
        </>
      )}
      {problem && <p className="note" role="alert">{problem}</p>}
    </li>
  );
});

/** The state of a conversation in the list. */
function markOf({ runs_active, asks, unread }: ListedThread, isCurrent: boolean) {
  if (asks) return { kind: "asks", text: "Waits for your answer" };
  if (runs_active > 0) return { kind: "running", text: "Running" };
  if (unread === 0 || isCurrent) return null;
  return { kind: "unread", text: unread === 1 ? "1 unread answer" : `${unread} unread answers` };
}
