// Thumb up, thumb down, and a comment, on an answer.

import { useRef, useState } from "react";
import type { AgentEntry } from "../../../src/index.ts";
import { explain } from "../../shared/errorText.ts";
import { useActions } from "../composer/actions.ts";
import { FeedbackForm } from "./FeedbackForm.tsx";
import { CommentIcon, ThumbDownIcon, ThumbUpIcon } from "./icons.tsx";
import { useFeedback } from "./useFeedback.ts";

const THUMBS = [
  { rating: "up", name: "Good answer", Icon: ThumbUpIcon },
  { rating: "down", name: "Bad answer", Icon: ThumbDownIcon },
] as const;

export function FeedbackButtons({ entry }: { entry: AgentEntry }) {
  const { threadId } = useActions();
  const { rating, comment, problem, rate } = useFeedback(entry, threadId);
  const [isOpen, setOpen] = useState(false);
  const opener = useRef<HTMLButtonElement>(null);
  return (
    <>
      {THUMBS.map(({ rating: one, name, Icon }) => (
        <button
          key={one}
          type="button"
          className="quiet thumb"
          aria-label={name}
          title={name}
          aria-pressed={rating === one}
          onClick={() => {
            setOpen(false);
            // The comment stays with the other rating; without a rating there is none.
            if (rating === one) rate(null);
            else rate(one, comment);
          }}
        >
          <Icon />
        </button>
      ))}
      {rating !== null && (
        <button ref={opener} type="button" className="quiet" aria-expanded={isOpen} onClick={() => setOpen(!isOpen)}>
          <CommentIcon />
          {comment === "" ? "Comment" : "Edit comment"}
        </button>
      )}
      {problem && (
        <p className="note bad" role="alert">Your rating was not stored. {explain(problem).text}</p>
      )}
      {isOpen && rating !== null && (
        <FeedbackForm
          comment={comment}
          onDone={(text) => {
            setOpen(false);
            opener.current?.focus();
            if (text !== null) rate(rating, text);
          }}
        />
      )}
    </>
  );
}
