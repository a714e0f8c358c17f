// A message of the user, and its delivery.

import { memo, useRef } from "react";
import type { RunStatus, UserEntry } from "../../../src/index.ts";
import { useActions } from "../composer/actions.ts";
import { EditForm } from "../composer/EditForm.tsx";
import { FailedMessage } from "./FailedMessage.tsx";
import { MessageActions } from "./MessageActions.tsx";
import { delivery } from "./words.ts";

interface UserProps {
  readonly entry: UserEntry;
  readonly runStatus: RunStatus | undefined;
  /** In the queue. */
  readonly position: number | null;
  readonly isConnected: boolean;
  /** Absent if the message cannot be sent again. */
  readonly onRetry: ((entry: UserEntry) => void) | undefined;
}

export const UserMessage = memo(function UserMessage(props: UserProps) {
  const { entry, runStatus, position, isConnected, onRetry } = props;
  const { editing } = useActions();
  const bubble = useRef<HTMLDivElement>(null);
  const state = delivery(entry, isConnected, runStatus ?? entry.run_status, position);
  if (editing === entry.id) {
    return (
      <article className="message user" aria-label="You">
        <EditForm entry={entry} />
      </article>
    );
  }
  return (
    <article className={`message user ${entry.status}`} aria-label="You">
      <div ref={bubble} className="bubble" dir="auto">{entry.content}</div>
      {state && entry.status !== "failed" && <p className="note">{state}</p>}
      {entry.status === "failed" && <FailedMessage entry={entry} onRetry={onRetry && (() => onRetry(entry))} />}
      <MessageActions entry={entry} text={entry.content} source={bubble} />
    </article>
  );
});
