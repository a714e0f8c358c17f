// The title of a thread while it is edited: Enter and leaving the field store it, Escape does not.

import { type KeyboardEvent, type SubmitEvent, useRef, useState } from "react";
import { isComposing } from "../../shared/keys.ts";

interface Props {
  readonly title: string;
  /** @param title Null if it is not to be changed. @param byKey Whether the focus was in the field until then. */
  readonly onDone: (title: string | null, byKey: boolean) => void;
}

const TITLE_CHARACTERS = 200; // that the server accepts

export function RenameForm({ title, onDone }: Props) {
  const [text, setText] = useState(title);
  const isDone = useRef(false); // The field loses the focus when it is removed.
  const finish = (isKept: boolean, byKey: boolean) => {
    if (isDone.current) return;
    isDone.current = true;
    const next = text.trim();
    onDone(isKept && next && next !== title ? next : null, byKey);
  };
  const submit = (event: SubmitEvent) => {
    event.preventDefault();
    finish(true, true);
  };
  const onKeyDown = (event: KeyboardEvent) => {
    // Escape and Enter may end the composition of an input method.
    const isComposed = isComposing(event.nativeEvent);
    if (event.key === "Escape" && !isComposed) finish(false, true);
    else if (event.key !== "Enter" || !isComposed) return;
    event.preventDefault();
  };
  return (
    <form onSubmit={submit}>
      <input
        aria-label="Title"
        dir="auto"
        value={text}
        maxLength={TITLE_CHARACTERS}
        autoFocus
        onFocus={(event) => event.target.select()}
        onChange={(event) => setText(event.target.value)}
        onKeyDown={onKeyDown}
        onBlur={() => finish(true, false)}
      />
    </form>
  );
}
