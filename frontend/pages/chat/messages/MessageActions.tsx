// The time of a message, and what the user may do with it: shown below it, where a pointer cannot hover
// always, elsewhere while the pointer or the focus is at the message.

import type { RefObject } from "react";
import type { AgentEntry, UserEntry } from "../../../src/index.ts";
import { CopyButton } from "../../shared/CopyButton.tsx";
import { PenIcon, RetryIcon } from "../../shared/icons.tsx";
import { useActions } from "../composer/actions.ts";
import { FeedbackButtons } from "./FeedbackButtons.tsx";
import { longTime, timeText } from "./time.ts";

interface Props {
  /** Absent if the server has no answer to a question. */
  readonly entry: UserEntry | AgentEntry | undefined;
  readonly text: string;
  /** The element with the text. */
  readonly source: RefObject<HTMLElement | null>;
  /** Asks the question of this answer again. */
  readonly onRegenerate?: (() => void) | undefined;
}

export function MessageActions({ entry, text, source, onRegenerate }: Props) {
  const { edit } = useActions();
  const isOwn = entry?.role === "user";
  return (
    <div className="actions">
      {entry !== undefined && entry.timestamp > 0 && <Time seconds={entry.timestamp} />}
      {text !== "" && <CopyButton text={text} source={source} what={isOwn ? "message" : "answer"} isRich={!isOwn} />}
      {isOwn && entry.message_id !== null && entry.type === "user_message" && (
        <button type="button" className="quiet" aria-label="Edit message" onClick={() => edit(entry.id)}>
          <PenIcon />
          Edit
        </button>
      )}
      {onRegenerate && (
        <button type="button" className="quiet" onClick={onRegenerate}>
          <RetryIcon />
          Regenerate
        </button>
      )}
      {entry?.role === "agent" && text !== "" && <FeedbackButtons entry={entry} />}
    </div>
  );
}

function Time({ seconds }: { seconds: number }) {
  const ms = seconds * 1000;
  return (
    <time className="note" dateTime={new Date(ms).toISOString()} title={longTime(ms)}>
      {timeText(ms)}
    </time>
  );
}
