// The last error of the connection, unless it is shown at a message or is none for the reader.

import type { ErrorBody, Snapshot } from "../../src/index.ts";
import { useNetra } from "../../src/react/index.ts";
import { Banner } from "../shared/connection/Banner.tsx";
import type { Problem } from "../shared/problem.ts";
import { threadOf } from "./messages/conversation.ts";

interface Props {
  readonly threadId: string;
  readonly onSignInAgain: (why: Problem) => void;
}

export function ChatBanner({ threadId, onSignInAgain }: Props) {
  const error = useNetra((netra) => errorToShow(netra, threadId));
  return <Banner error={error} onSignInAgain={onSignInAgain} />;
}

function errorToShow({ lastError, outline }: Snapshot, threadId: string): ErrorBody | null {
  // A thread is unknown to the server until its first message, so this is no error here.
  if (lastError === null || lastError.code === "THREAD_NOT_FOUND") return null;
  // An error of a message is shown at that message.
  const isAtMessage = outline.messages.some(
    (entry) =>
      threadOf(entry) === threadId &&
      entry.error?.code === lastError.code &&
      entry.error.timestamp === lastError.timestamp,
  );
  return isAtMessage ? null : lastError;
}
