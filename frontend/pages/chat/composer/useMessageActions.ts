// Sends, edits and discards the messages of the open thread.

import { useCallback, useEffect, useMemo, useRef, useState } from "react";
import type { MessageOptions, UserEntry } from "../../../src/index.ts";
import { useNetra, useNetraClient } from "../../../src/react/index.ts";
import { threadOf } from "../messages/conversation.ts";
import { onCommand } from "../shortcuts.ts";
import type { Actions } from "./actions.ts";
import { putBack } from "./useDraft.ts";
import { forgetUnsent } from "./unsent.ts";

interface Conversation {
  readonly user: string;
  readonly threadId: string;
  /** The agent that new messages go to; absent for the server's default. */
  readonly agent: string | undefined;
  /** Called when a message of the user appears at the end. */
  readonly onSent: () => void;
}

export function useMessageActions({ user, threadId, agent, onSent }: Conversation): Actions {
  const client = useNetraClient();
  const checkMessage = useNetra((netra) => netra.checkMessage);
  const [edited, setEdited] = useState<{ readonly thread: string; readonly id: string } | null>(null);
  const editing = edited?.thread === threadId ? edited.id : null;
  const edit = useCallback(
    (id: string | null) => setEdited(id === null ? null : { thread: threadId, id }),
    [threadId],
  );
  const latest = useRef(agent);
  useEffect(() => {
    latest.current = agent;
  }, [agent]);

  const options = useCallback(
    (more: MessageOptions = {}): MessageOptions => ({
      thread_id: threadId,
      ...(latest.current === undefined ? {} : { agent: latest.current }),
      ...more,
    }),
    [threadId],
  );
  const submit = useCallback(
    (content: string, more: MessageOptions) => {
      const payload = { ...options(more), content };
      const fault = checkMessage({ type: "user_message", payload });
      if (fault !== null) return fault;
      const correlation_id = client.sendOptimisticMessage(content, "user_message", options(more));
      void client.sendMessage({ type: "user_message", payload: { ...payload, correlation_id } });
      return null;
    },
    [client, checkMessage, options],
  );
  const forget = useCallback(
    (entry: UserEntry) => {
      client.discardMessage(entry.id);
      // The banner shows an error that no message shows.
      const { lastError } = client.getSnapshot();
      if (lastError?.timestamp === entry.error?.timestamp) client.clearError();
      forgetUnsent(user, threadId, entry.id);
    },
    [client, user, threadId],
  );

  const again = useCallback(
    (entry: UserEntry) => {
      const isSent = submit(entry.content, replacing(entry)) === null;
      if (isSent && entry.status === "failed") forget(entry);
    },
    [submit, forget],
  );

  useEffect(
    () =>
      onCommand("edit-last", () => {
        const own = client.getSnapshot().messages.filter((entry) => entry.role === "user" && threadOf(entry) === threadId);
        const last = own.findLast(({ message_id }) => message_id !== null);
        if (last !== undefined) edit(last.id);
      }),
    [client, threadId, edit],
  );

  return useMemo(
    () => ({
      user,
      threadId,
      editing,
      edit,
      check: (content) => checkMessage({ type: "user_message", payload: { ...options(), content } }),
      send: (content, { isUrgent = false } = {}) => {
        const fault = submit(content, isUrgent ? { on_busy: "interrupt" } : {});
        if (fault === null) onSent();
        return fault;
      },
      again,
      takeBack: (entry) => {
        putBack(user, threadId, entry.content);
        forget(entry);
      },
      discard: forget,
      replace: (entry, content) => {
        const fault = submit(content, replacing(entry));
        if (fault === null) edit(null);
        return fault;
      },
    }),
    [user, threadId, editing, edit, checkMessage, options, submit, onSent, again, forget],
  );
}

/** What a message replaces that is sent for another one: that one, or what that one was to replace. */
function replacing({ message_id, payload }: UserEntry): MessageOptions {
  const replaces = message_id ?? payload["replaces"];
  return typeof replaces === "string" ? { replaces } : {};
}
