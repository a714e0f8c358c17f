// Messages that were refused before the page was loaded again: their texts are not lost.

import { useEffect, useSyncExternalStore } from "react";
import { shallowEqual, useNetra } from "../../../src/react/index.ts";
import type { ChatMessage, UserEntry } from "../../../src/index.ts";
import { Attachments } from "../files/Attachments.tsx";
import { threadOf } from "../messages/conversation.ts";
import { AlertIcon } from "../../shared/icons.tsx";
import { Details } from "../../shared/Details.tsx";
import { explain } from "../../shared/errorText.ts";
import { useActions } from "./actions.ts";
import { forgetUnsent, onUnsent, rememberUnsent, unsentIn } from "./unsent.ts";
import { putBack } from "./putBack.ts";

export function UnsentMessages() {
  const { user, threadId } = useActions();
  const failed = useNetra((netra) => failedIn(netra.outline.messages, threadId), shallowEqual);
  useEffect(() => {
    for (const { id, content, attachments, error } of failed) {
      rememberUnsent(user, threadId, { id, content, attachments, error, at: Date.now() });
    }
  }, [user, threadId, failed]);
  const stored = useSyncExternalStore(onUnsent, () => unsentIn(user, threadId));
  // What the conversation still shows has its buttons there.
  const shown = stored.filter(({ id }) => !failed.some((entry) => entry.id === id));
  if (shown.length === 0) return null;
  return (
    <ul className="unsent" aria-label="Messages that were not sent">
      {shown.map(({ id, content, attachments = [], error }) => {
        const { text, details } = error === null ? { text: "", details: null } : explain(error);
        const forget = () => forgetUnsent(user, threadId, id);
        return (
          <li key={id} className="problem">
            <AlertIcon />
            <div>
              <p>Not sent. {text}</p>
              <p className="quoted" dir="auto">{content}</p>
              <Attachments files={attachments} />
              <Details text={details} />
            </div>
            <button
              type="button"
              className="quiet"
              onClick={() => {
                putBack(user, threadId, { content, attachments });
                forget();
              }}
            >
              Edit
            </button>
            <button type="button" className="quiet" onClick={forget}>Discard</button>
          </li>
        );
      })}
    </ul>
  );
}

const failedIn = (messages: readonly ChatMessage[], threadId: string) =>
  messages.filter((entry): entry is UserEntry => entry.role === "user" && entry.status === "failed" && threadOf(entry) === threadId);
