// What the page needs of the client, for one thread: its messages in order, the run that is at work,
// its history, and the ways to send, stop and send again.

import { useCallback, useEffect, useMemo, useRef, useState } from "react";
import type {
  AgentEntry,
  ChatMessage,
  ErrorBody,
  Run,
  RunStatus,
  UserEntry,
} from "../../src/index.ts";
import { type EnhancedWebSocket, useEnhancedWebSocket } from "../../src/react/index.ts";
import { isEnd } from "../../src/core/snapshot.ts";

const PAGE = 50; // messages of the history at a time

/** What is shown: a message of the user, or what an agent made of one. */
export type Item =
  | { readonly kind: "user"; readonly key: string; readonly entry: UserEntry; readonly run: Run | undefined }
  | {
      readonly kind: "agent";
      readonly key: string;
      /** Missing where nothing was written (yet). */
      readonly entry: AgentEntry | undefined;
      readonly run: Run | undefined;
      readonly status: RunStatus;
      readonly question: UserEntry | undefined;
    };

export interface Conversations {
  readonly socket: EnhancedWebSocket;
  readonly items: readonly Item[];
  readonly activeRun: Run | undefined;
  readonly hasEarlier: boolean;
  readonly loadEarlier: () => void;
  readonly send: (content: string) => void;
  readonly stop: (run: Run) => void;
  readonly again: (entry: UserEntry) => void;
  /** Whether an error stands beside its message already. */
  readonly isShownElsewhere: (error: ErrorBody) => boolean;
}

export function useConversations(threadId: string): Conversations {
  const socket = useEnhancedWebSocket();
  const { sendMessage, sendOptimisticMessage, stopRun, resend } = socket;

  const entries = useMemo(
    () => socket.messages.filter((entry) => threadOf(entry) === threadId),
    [socket.messages, threadId],
  );
  const runs = useMemo(() => new Map(socket.runs.map((run) => [run.run_id, run])), [socket.runs]);
  const items = useMemo(() => itemsOf(entries, runs), [entries, runs]);
  const activeRun = useMemo(() => {
    const going = items
      .map((item) => item.run)
      .filter((run): run is Run => run !== undefined && !isEnd(run.status));
    return going.find((run) => run.status === "running") ?? going[0];
  }, [items]);

  const history = useHistory(socket, threadId, entries);

  const send = useCallback(
    (content: string) => {
      const correlation_id = sendOptimisticMessage(content);
      void sendMessage({ type: "user_message", payload: { content, correlation_id } });
    },
    [sendMessage, sendOptimisticMessage],
  );
  const stop = useCallback((run: Run) => void stopRun(run.run_id), [stopRun]);
  const again = useCallback(
    (entry: UserEntry) => {
      const key = entry.correlation_id === null ? null : resend(entry.correlation_id);
      if (key === null) send(entry.content);
    },
    [resend, send],
  );
  const isShownElsewhere = useCallback(
    (error: ErrorBody) =>
      // A thread is new until its first message: that the server does not know it is no error.
      error.code === "THREAD_NOT_FOUND" ||
      entries.some(
        ({ error: shown }) => shown?.code === error.code && shown.timestamp === error.timestamp,
      ),
    [entries],
  );

  return {
    socket,
    items,
    activeRun,
    ...history,
    send,
    stop,
    again,
    isShownElsewhere,
  };
}

const threadOf = (entry: ChatMessage) =>
  (entry.payload["thread_id"] as string | undefined) ?? entry.thread_id;

/** Put each answer to its question, and an answer without words behind the question it is to. */
function itemsOf(entries: readonly ChatMessage[], runs: ReadonlyMap<string, Run>): readonly Item[] {
  const items: Item[] = [];
  const answered = new Set<UserEntry>();
  const questions = entries.filter((entry): entry is UserEntry => entry.role === "user");
  const questionTo = (entry: AgentEntry, before: ChatMessage | undefined) => {
    if (entry.run_id !== null) return questions.find((asked) => asked.run_id === entry.run_id);
    // The history does not say what an answer is to: runs of a thread take turns, so it follows.
    return before?.role === "user" ? before : undefined;
  };
  const asked = new Map<AgentEntry, UserEntry>();
  entries.forEach((entry, index) => {
    const question = entry.role === "agent" ? questionTo(entry, entries[index - 1]) : undefined;
    if (entry.role === "agent" && question) {
      asked.set(entry, question);
      answered.add(question);
    }
  });
  for (const entry of entries) {
    const run = entry.run_id === null ? undefined : runs.get(entry.run_id);
    if (entry.role === "agent") {
      const question = asked.get(entry);
      const itsRun = run ?? (question?.run_id ? runs.get(question.run_id) : undefined);
      const status = itsRun?.status ?? question?.run_status ?? entry.status;
      // Its question says that it waits; there is nothing to see of the answer yet.
      if (status === "queued") continue;
      items.push({ kind: "agent", key: entry.id, entry, run: itsRun, status, question });
      continue;
    }
    items.push({ kind: "user", key: entry.id, entry, run });
    const status = run?.status ?? entry.run_status;
    const isSilent = status !== null && status !== "queued" && status !== "completed";
    if (isSilent && !answered.has(entry)) {
      const key = entry.run_id ?? `${entry.id} answer`;
      items.push({ kind: "agent", key, entry: undefined, run, status, question: entry });
    }
  }
  // What waits its turn, or to be sent, comes after the answer that it waits for.
  const waits = (item: Item) =>
    item.kind === "user" &&
    (item.run?.status === "queued" || item.entry.status === "pending" || item.entry.status === "unconfirmed");
  return [...items.filter((item) => !waits(item)), ...items.filter(waits)];
}

/** The messages from before: the client loads the newest, the reader asks for the others. */
function useHistory(
  { subscribe, loadThread }: EnhancedWebSocket,
  threadId: string,
  entries: readonly ChatMessage[],
): Pick<Conversations, "hasEarlier" | "loadEarlier"> {
  const [more, setMore] = useState<Readonly<Record<string, boolean>>>({});
  const paged = useRef(new Set<string>());

  useEffect(
    () =>
      subscribe("thread_history", ({ payload }) => {
        // After the reader went back, a newest page says nothing of what lies before the oldest.
        if (paged.current.has(payload.thread_id)) return;
        setMore((known) => ({ ...known, [payload.thread_id]: payload.has_more }));
      }),
    [subscribe],
  );

  const oldest = entries.find((entry) => entry.message_id !== null)?.message_id ?? undefined;
  const loadEarlier = useCallback(() => {
    if (oldest === undefined) return;
    paged.current.add(threadId);
    loadThread(threadId, { limit: PAGE, before: oldest }).then(
      (page) => setMore((known) => ({ ...known, [threadId]: page.has_more })),
      () => undefined, // The button stays, to be tried again.
    );
  }, [loadThread, threadId, oldest]);
  return { hasEarlier: more[threadId] === true, loadEarlier };
}
