// A message of the user, and its delivery.

import { memo, useRef } from "react";
import type { UserEntry } from "../../../src/index.ts";
import { useNetra } from "../../../src/react/index.ts";
import { useActions } from "../composer/actions.ts";
import { EditForm } from "../composer/EditForm.tsx";
import { Attachments } from "../files/Attachments.tsx";
import { isOnlyFiles } from "../files/describe.ts";
import type { UserItem } from "./conversation.ts";
import { FailedMessage } from "./FailedMessage.tsx";
import { MessageActions } from "./MessageActions.tsx";
import { delivery } from "./words.ts";

interface UserProps {
  readonly item: UserItem;
  readonly onRetry: (entry: UserEntry) => void;
}

export const UserMessage = memo(function UserMessage({ item, onRetry }: UserProps) {
  const { entry, runStatus } = item;
  const { editing } = useActions();
  const bubble = useRef<HTMLDivElement>(null);
  if (editing === entry.id) {
    return (
      <article className="message user" aria-label="You">
        <EditForm entry={entry} />
      </article>
    );
  }
  const isSettled = entry.status === "confirmed" && (runStatus ?? entry.run_status) !== "queued";
  return (
    <article className={`message user ${entry.status}`} aria-label="You" tabIndex={-1}>
      <Attachments files={entry.attachments} />
      {!isOnlyFiles(entry) && <div ref={bubble} className="bubble" dir="auto">{entry.content}</div>}
      {entry.status === "failed" && <FailedMessage entry={entry} onRetry={() => onRetry(entry)} />}
      {entry.status !== "failed" && !isSettled && <Delivery item={item} />}
      <MessageActions entry={entry} text={entry.content} source={bubble} />
    </article>
  );
});

/** A component of its own, because a settled message does not follow the connection. */
function Delivery({ item: { entry, runStatus, position } }: { item: UserItem }) {
  const isConnected = useNetra((netra) => netra.isConnected);
  return <p className="note">{delivery(entry, isConnected, runStatus ?? entry.run_status, position)}</p>;
}
