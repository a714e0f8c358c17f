// A message of the user while it is edited in its place.

import { useEffect, useRef, useState } from "react";
import type { ChatMessage, UserEntry } from "../../../src/index.ts";
import { useNetra } from "../../../src/react/index.ts";
import { Attachments } from "../files/Attachments.tsx";
import { isOnlyFiles } from "../files/describe.ts";
import { threadOf } from "../messages/conversation.ts";
import { useActions } from "./actions.ts";
import { faultText } from "./excess.ts";
import { MessageBox } from "./MessageBox.tsx";
import { putBack } from "./putBack.ts";

export function EditForm({ entry }: { entry: UserEntry }) {
  const { user, threadId, edit, replace, check } = useActions();
  const isLast = useNetra((netra) => isLastQuestion(netra.outline.messages, entry));
  const [text, setText] = useState(isOnlyFiles(entry) ? "" : entry.content);
  const [wasRefused, setRefused] = useState(false);
  const box = useRef<HTMLTextAreaElement>(null);
  const changed = useRef<string | null>(null);
  const ids = entry.attachments.map(({ file_id }) => file_id);
  const checkText = (content: string) => check(content, ids);
  const error = wasRefused && text.trim() ? checkText(text) : null;
  const [attachments] = useState(entry.attachments);

  useEffect(() => {
    const area = box.current;
    area?.focus();
    area?.setSelectionRange(area.value.length, area.value.length);
  }, []);
  useEffect(() => {
    changed.current = text === entry.content ? null : text;
  }, [text, entry.content]);
  // Another tab or device may replace or delete the message meanwhile: the text goes into the box.
  useEffect(
    () => () => {
      if (changed.current !== null) putBack(user, threadId, { content: changed.current, attachments });
    },
    [user, threadId, attachments],
  );

  const leave = () => {
    changed.current = null;
    edit(null);
    focusBehind();
  };
  const save = () => {
    if (!text.trim()) return;
    const fault = replace(entry, text);
    setRefused(fault !== null);
    if (fault !== null) return;
    changed.current = null;
    focusBehind();
  };
  return (
    <form
      className="edit"
      aria-label="Edit message"
      onSubmit={(event) => {
        event.preventDefault();
        save();
      }}
    >
      <div className="box">
        <MessageBox
          box={box}
          label="Your message"
          text={text}
          onChange={setText}
          onSend={save}
          onEscape={leave}
          describedBy={error ? "edit-fault" : "edit-note"}
          isInvalid={error !== null}
        />
      </div>
      {error && <p className="fault" id="edit-fault" role="alert">{faultText(text, error, checkText)}</p>}
      <Attachments files={entry.attachments} />
      <p className="note" id="edit-note">
        {isLast ? "The answer is replaced by a new one." : "This message and all that follows are replaced."}
      </p>
      <div className="buttons">
        <button type="button" className="secondary" onClick={leave}>Cancel</button>
        <button type="submit" className="primary" disabled={!text.trim()}>Send</button>
      </div>
    </form>
  );
}

/** The form disappears: the focus goes to the box, not to the page's body. */
function focusBehind(): void {
  document.querySelector<HTMLElement>(".composer textarea")?.focus();
}

const isLastQuestion = (messages: readonly ChatMessage[], { id, thread_id }: UserEntry) =>
  messages.findLast((entry) => entry.role === "user" && threadOf(entry) === thread_id)?.id === id;
