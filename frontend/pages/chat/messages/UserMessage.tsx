// A message of the user, and its delivery.

import { memo } from "react";
import type { RunStatus, UserEntry } from "../../../src/index.ts";
import { Problem } from "./Problem.tsx";
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
  const state = delivery(entry, isConnected, runStatus ?? entry.run_status, position);
  return (
    <article className={`message user ${entry.status}`} aria-label="You">
      <div className="bubble">{entry.content}</div>
      {state && entry.status !== "failed" && <p className="note">{state}</p>}
      {entry.status === "failed" && (
        <Problem
          text={`${state}. ${entry.error?.error ?? ""}`.trim()}
          help={entry.error?.help ?? ""}
          onRetry={onRetry && (() => onRetry(entry))}
        />
      )}
    </article>
  );
});
