// One conversation in the list: its title, its state, and buttons to rename and delete it.

import { type KeyboardEvent, memo, type SubmitEvent, useState } from "react";
import { RequestError, type ListedThread } from "../../../src/index.ts";
import { BinIcon, PenIcon } from "../../shared/icons.tsx";
import { addressOf } from "./address.ts";

interface Props {
  readonly thread: ListedThread;
  readonly isCurrent: boolean;
  readonly onOpen: () => void;
  readonly onRename: (id: string, title: string) => Promise<void>;
  readonly onDelete: (id: string) => Promise<void>;
}

export const ThreadItem = memo(function ThreadItem({ thread, isCurrent, onOpen, onRename, onDelete }: Props) {
  const { thread_id: id, title } = thread;
  const [isRenaming, setRenaming] = useState(false);
  const [isArmed, setArmed] = useState(false);
  const [problem, setProblem] = useState("");
  const mark = markOf(thread, isCurrent);

  const attempt = (done: Promise<void>) => {
    setProblem("");
    done.catch((error: unknown) => setProblem(error instanceof RequestError ? error.body.error : "It failed."));
  };
  const deletes = isArmed ? `Delete permanently: ${title}` : `Delete: ${title}`;
  return (
    <li>
      {isRenaming ? (
        <RenameForm
          title={title}
          onDone={(next) => {
            setRenaming(false);
            if (next && next !== title) attempt(onRename(id, next));
          }}
        />
      ) : (
        <>
          <a href={addressOf(id)} aria-current={isCurrent ? "page" : undefined} onClick={onOpen} title={title}>
            {title}
          </a>
          {mark && <span className={`mark ${mark.kind}`} role="img" aria-label={mark.text} title={mark.text} />}
          <button
            type="button"
            className="square"
            aria-label={`Rename: ${title}`}
            title="Rename"
            onClick={() => setRenaming(true)}
          >
            <PenIcon />
          </button>
          <button
            type="button"
            className={isArmed ? "square armed" : "square"}
            aria-label={deletes}
            title={isArmed ? "Delete permanently" : "Delete"}
            onBlur={() => setArmed(false)}
            onClick={() => {
              setArmed(!isArmed);
              if (isArmed) attempt(onDelete(id));
            }}
          >
            <BinIcon />
          </button>
        </>
      )}
      {problem && <p className="note" role="alert">{problem}</p>}
    </li>
  );
});

interface FormProps {
  readonly title: string;
  /** The new title; empty if it is not changed. */
  readonly onDone: (title: string) => void;
}

const TITLE_CHARACTERS = 200; // that the server accepts

function RenameForm({ title, onDone }: FormProps) {
  const [text, setText] = useState(title);
  const submit = (event: SubmitEvent) => {
    event.preventDefault();
    onDone(text.trim());
  };
  const onKeyDown = (event: KeyboardEvent) => {
    if (event.key !== "Escape" || event.nativeEvent.isComposing) return;
    event.preventDefault();
    onDone("");
  };
  return (
    <form onSubmit={submit}>
      <input
        aria-label="Title"
        value={text}
        maxLength={TITLE_CHARACTERS}
        autoFocus
        onFocus={(event) => event.target.select()}
        onChange={(event) => setText(event.target.value)}
        onKeyDown={onKeyDown}
        onBlur={() => onDone("")}
      />
    </form>
  );
}

/** The state of a conversation in the list. */
function markOf({ runs_active, asks, unread }: ListedThread, isCurrent: boolean) {
  if (asks) return { kind: "asks", text: "Waits for your answer" };
  if (runs_active > 0) return { kind: "running", text: "Running" };
  if (unread === 0 || isCurrent) return null;
  return { kind: "unread", text: unread === 1 ? "1 unread answer" : `${unread} unread answers` };
}
