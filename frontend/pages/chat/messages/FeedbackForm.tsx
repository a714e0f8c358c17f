// The comment on an answer.

import { type KeyboardEvent, useState } from "react";
import { isComposing } from "../../shared/keys.ts";

interface Props {
  readonly comment: string;
  /** @param comment Null if nothing is to be changed. */
  readonly onDone: (comment: string | null) => void;
}

const COMMENT_CHARACTERS = 2_000; // that the server accepts

export function FeedbackForm({ comment, onDone }: Props) {
  const [text, setText] = useState(comment);
  const onKeyDown = (event: KeyboardEvent) => {
    if (event.key !== "Escape" || isComposing(event.nativeEvent)) return;
    event.preventDefault();
    onDone(null);
  };
  return (
    <form
      className="feedback"
      aria-label="Comment on this answer"
      onKeyDown={onKeyDown}
      onSubmit={(event) => {
        event.preventDefault();
        onDone(text.trim());
      }}
    >
      <textarea
        aria-label="Comment"
        placeholder="What was good or wrong?"
        dir="auto"
        rows={3}
        maxLength={COMMENT_CHARACTERS}
        value={text}
        onChange={(event) => setText(event.target.value)}
        autoFocus
      />
      <div className="buttons">
        <button type="button" className="secondary" onClick={() => onDone(null)}>Cancel</button>
        <button type="submit" className="primary">Send comment</button>
      </div>
    </form>
  );
}
