// The page: conversations at the side, the messages, and the box to type in. It selects little of the
// client's state, so that it does not render again while an answer is streamed.

import { useCallback, useEffect, useRef, useState } from "react";
import type { Run } from "../../src/index.ts";
import { useNetra, useThreads, useWatch } from "../../src/react/index.ts";
import { Composer } from "./composer/Composer.tsx";
import { Banner, ConnectionState, SignInNotice } from "./Connection.tsx";
import { ExportMenu } from "./export/ExportMenu.tsx";
import { conversationOf } from "./messages/conversation.ts";
import { MessageList } from "./messages/MessageList.tsx";
import { Sidebar } from "./threads/Sidebar.tsx";
import { isComposing } from "../shared/keys.ts";
import { DownIcon, MenuIcon } from "../shared/icons.tsx";
import { titleOf } from "./threads/title.ts";
import { addressOf, newThreadId } from "./threads/address.ts";
import { useHistory } from "./messages/useHistory.ts";
import { useMarkRead } from "./threads/useMarkRead.ts";
import { ActionsContext } from "./composer/actions.ts";
import { UnsentMessages } from "./composer/UnsentMessages.tsx";
import { useMessageActions } from "./composer/useMessageActions.ts";
import { useAgents } from "./agents/useAgents.ts";
import { useStickToEnd } from "./messages/useStickToEnd.ts";
import { Welcome } from "./Welcome.tsx";

interface Props {
  readonly user: string;
  readonly threadId: string;
  readonly onSignOut: (() => void) | undefined;
  readonly onSignInAgain: (why: { readonly error: string; readonly help: string }) => void;
}

export function Chat({ user, threadId, onSignOut, onSignInAgain }: Props) {
  const threads = useThreads();
  useWatch(threadId);
  const isEmpty = useNetra((netra) => conversationOf(netra, threadId).keys.length === 0);
  const first = useNetra((netra) => conversationOf(netra, threadId).first);
  const activeRunId = useNetra((netra) => conversationOf(netra, threadId).activeRunId);
  const stopRun = useNetra((netra) => netra.stopRun);
  const subscribe = useNetra((netra) => netra.subscribe);
  const { hasEarlier, loadEarlier } = useHistory(threadId);
  const [isDrawerOpen, setDrawerOpen] = useState(false);
  const box = useRef<HTMLTextAreaElement>(null);
  const opener = useRef<HTMLButtonElement>(null);
  const { scroller, content, isAtEnd, toEnd } = useStickToEnd(threadId);

  const listed = threads.threads.find((thread) => thread.thread_id === threadId);
  useMarkRead(threadId, listed?.unread ?? 0, activeRunId !== undefined);
  // A new thread is listed a moment after its first message.
  const title = listed?.title ?? (first ? titleOf(first.content) : "New conversation");
  useEffect(() => {
    document.title = isEmpty ? "Chat" : `${title} – Chat`;
  }, [title, isEmpty]);

  const agents = useAgents(user, threadId, useNetra((netra) => lastAgent(netra.runs, threadId)));
  const agent = agents.agents.length > 1 ? agents.current?.name : undefined;
  const actions = useMessageActions({ user, threadId, agent, onSent: toEnd });
  const stop = useCallback(() => {
    if (activeRunId !== undefined) void stopRun(activeRunId);
  }, [stopRun, activeRunId]);
  const begin = useCallback(() => {
    location.hash = addressOf(newThreadId());
    setDrawerOpen(false);
    box.current?.focus();
  }, []);
  // The open thread was deleted, here or on another device.
  useEffect(
    () =>
      subscribe("thread_changed", ({ payload }) => {
        if (payload.change === "deleted" && payload.thread_id === threadId) begin();
      }),
    [subscribe, threadId, begin],
  );

  const wasOpen = useRef(false);
  useEffect(() => {
    // A closed drawer returns the focus to its button, unless another element has it.
    const isFree = document.activeElement?.matches("body, #sidebar *") ?? true;
    if (wasOpen.current && !isDrawerOpen && isFree) opener.current?.focus();
    wasOpen.current = isDrawerOpen;
  }, [isDrawerOpen]);

  useEffect(() => {
    const onKey = (event: KeyboardEvent) => {
      // While an input method composes a character, Escape cancels only that.
      if (event.key !== "Escape" || event.defaultPrevented || isComposing(event)) return;
      if (isDrawerOpen) setDrawerOpen(false);
      else stop();
    };
    addEventListener("keydown", onKey);
    return () => removeEventListener("keydown", onKey);
  }, [isDrawerOpen, stop]);

  return (
    <ActionsContext value={actions}>
    <div className="layout">
      <Sidebar
        threads={threads}
        current={threadId}
        user={user}
        isOpen={isDrawerOpen}
        onClose={() => setDrawerOpen(false)}
        onNew={begin}
        onSignOut={onSignOut}
      />
      <main className="main" inert={isDrawerOpen}>
        <header className="top">
          <button
            ref={opener}
            type="button"
            className="square only-narrow"
            aria-label="Open conversations"
            aria-expanded={isDrawerOpen}
            aria-controls="sidebar"
            onClick={() => setDrawerOpen(true)}
          >
            <MenuIcon />
          </button>
          <h1>{title}</h1>
          <ConnectionState />
          {!isEmpty && <ExportMenu title={title} />}
        </header>
        <SignInNotice onSignInAgain={onSignInAgain} />
        <Banner threadId={threadId} onSignInAgain={onSignInAgain} />
        <div className="scroller" ref={scroller} tabIndex={-1}>
          <div className="column" ref={content}>
            {hasEarlier && (
              <button type="button" className="quiet earlier" onClick={loadEarlier}>
                Show earlier messages
              </button>
            )}
            {isEmpty && <Welcome agent={agents.current} onPick={actions.send} />}
            <MessageList threadId={threadId} onSendAgain={actions.again} />
            <UnsentMessages />
          </div>
        </div>
        <div className="foot">
          {!isAtEnd && (
            <button type="button" className="to-end" onClick={toEnd}>
              <DownIcon />
              Latest
            </button>
          )}
          <Composer key={threadId} box={box} agents={agents} isRunning={activeRunId !== undefined} onStop={stop} />
        </div>
      </main>
    </div>
    </ActionsContext>
  );
}

/** The agent of the newest run of a thread. */
const lastAgent = (runs: readonly Run[], threadId: string) =>
  runs.findLast(({ thread_id, agent_name }) => thread_id === threadId && agent_name !== null)?.agent_name ?? null;
