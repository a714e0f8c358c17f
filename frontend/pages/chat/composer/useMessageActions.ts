// Sends, edits and discards the messages of the open thread.

import { useCallback, useEffect, useMemo, useRef, useState } from "react";
import type { MessageOptions, Run, Snapshot, UserEntry } from "../../../src/index.ts";
import { isEnd } from "../../../src/index.ts";
import { useNetra, useNetraClient } from "../../../src/react/index.ts";
import { threadOf } from "../messages/conversation.ts";
import { onCommand } from "../shortcuts.ts";
import type { Actions } from "./actions.ts";
import { putBack } from "./putBack.ts";
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

  const submitFor = useCallback(
    (entry: UserEntry, content: string) => {
      const active = replacedRuns(client.getSnapshot(), threadId, entry);
      const isRunning = active.some(({ status }) => status === "running");
      const files = naming(entry.attachments.map(({ file_id }) => file_id));
      const fault = submit(content, { ...replacing(entry), ...files, ...(isRunning ? { on_busy: "interrupt" } : {}) });
      // The message interrupts the running one only; waiting ones would answer replaced questions.
      const waiting = fault === null ? active.filter(({ status }) => status === "queued") : [];
      for (const { run_id } of waiting) void client.stopRun(run_id);
      return fault;
    },
    [client, threadId, submit],
  );
  const again = useCallback(
    (entry: UserEntry) => {
      const isSent = submitFor(entry, entry.content) === null;
      if (isSent && entry.status === "failed") forget(entry);
    },
    [submitFor, forget],
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
      check: (content, files = []) =>
        checkMessage({ type: "user_message", payload: { ...options(naming(files)), content } }),
      send: (content, { isUrgent = false, files = [] } = {}) => {
        const fault = submit(content, { ...naming(files), ...(isUrgent ? { on_busy: "interrupt" } : {}) });
        if (fault === null) onSent();
        return fault;
      },
      again,
      takeBack: (entry) => {
        putBack(user, threadId, entry);
        forget(entry);
      },
      discard: forget,
      replace: (entry, content) => {
        const fault = submitFor(entry, content);
        if (fault === null) edit(null);
        return fault;
      },
    }),
    [user, threadId, editing, edit, checkMessage, options, submit, submitFor, onSent, again, forget],
  );
}

const naming = (files: readonly string[]): MessageOptions => (files.length === 0 ? {} : { attachments: files });

/** What a message replaces that is sent for another one: that one, or what that one was to replace. */
function replacing({ message_id, payload }: UserEntry): MessageOptions {
  const replaces = message_id ?? payload["replaces"];
  return typeof replaces === "string" ? { replaces } : {};
}

/** The runs that have not ended, of a message and of all later ones of its thread. */
function replacedRuns({ messages, runs }: Snapshot, threadId: string, { message_id }: UserEntry): readonly Run[] {
  const entries = messages.filter((entry) => threadOf(entry) === threadId);
  const begin = message_id === null ? -1 : entries.findIndex((entry) => entry.message_id === message_id);
  const replaced = begin < 0 ? [] : entries.slice(begin).map(({ run_id }) => run_id);
  return runs.filter(({ run_id, status }) => !isEnd(status) && replaced.includes(run_id));
}
