// The page: conversations at the side, the messages, and the box to type in. It selects little of the
// client's state, so that it does not render again while an answer is streamed.

import { useCallback, useRef } from "react";
import type { Run } from "../../src/index.ts";
import { useNetra, useWatch } from "../../src/react/index.ts";
import { ConnectionState } from "../shared/connection/ConnectionState.tsx";
import { SignInNotice } from "../shared/connection/SignInNotice.tsx";
import type { Problem } from "../shared/problem.ts";
import { ChatBanner } from "./ChatBanner.tsx";
import { UsageNotice } from "./UsageNotice.tsx";
import { Composer } from "./composer/Composer.tsx";
import { ExportMenu } from "./export/ExportMenu.tsx";
import { conversationOf } from "./messages/conversation.ts";
import { EarlierMessages } from "./messages/EarlierMessages.tsx";
import { MessageList } from "./messages/MessageList.tsx";
import { Sidebar } from "./threads/Sidebar.tsx";
import { DownIcon, MenuIcon } from "../shared/icons.tsx";
import { Shortcuts } from "./Shortcuts.tsx";
import { titleOf } from "./threads/title.ts";
import { newThreadId, openThread } from "./threads/address.ts";
import { waitingIn } from "./threads/changes.ts";
import { Toasts } from "./threads/Toasts.tsx";
import { useBadge } from "./threads/useBadge.ts";
import { useDeletedThread } from "./threads/useDeletedThread.ts";
import { useMarkRead } from "./threads/useMarkRead.ts";
import { ActionsContext } from "./composer/actions.ts";
import { UnsentMessages } from "./composer/UnsentMessages.tsx";
import { useMessageActions } from "./composer/useMessageActions.ts";
import { useAgents } from "./agents/useAgents.ts";
import { useNotifications } from "./threads/useNotifications.ts";
import { usePageKeys } from "./usePageKeys.ts";
import { usePanel } from "./threads/usePanel.ts";
import { useStickToEnd } from "./messages/useStickToEnd.ts";
import { useThreadList } from "./threads/useThreadList.ts";
import { useVisible } from "./threads/useVisible.ts";
import { Welcome } from "./Welcome.tsx";

interface Props {
  /** The id of the user. */
  readonly user: string;
  /** The user's name for display, if it is another one. */
  readonly name?: string;
  readonly threadId: string;
  readonly onSignOut: (() => void) | undefined;
  readonly onSignInAgain: (why: Problem) => void;
}

export function Chat({ user, name = user, threadId, onSignOut, onSignInAgain }: Props) {
  const list = useThreadList(user);
  useWatch(threadId);
  const isEmpty = useNetra((netra) => conversationOf(netra, threadId).items.length === 0);
  const first = useNetra((netra) => conversationOf(netra, threadId).first);
  const activeRunId = useNetra((netra) => conversationOf(netra, threadId).activeRunId);
  const stopRun = useNetra((netra) => netra.stopRun);
  const box = useRef<HTMLTextAreaElement>(null);
  const searchBox = useRef<HTMLInputElement>(null);
  const opener = useRef<HTMLButtonElement>(null);
  const panel = usePanel(opener);
  const { scroller, content, isAtEnd, toEnd, hold } = useStickToEnd(threadId);

  const listed = list.threads.find((thread) => thread.thread_id === threadId);
  useMarkRead(threadId, listed?.unread ?? 0, activeRunId !== undefined);
  // A new thread is listed a moment after its first message.
  const title = listed?.title ?? (first ? titleOf(first.content) : "New conversation");
  const isVisible = useVisible();
  useBadge(isEmpty ? null : title, waitingIn(list.threads, isVisible ? threadId : null));
  const notifying = useNotifications(user, list);

  const agents = useAgents(user, threadId, useNetra((netra) => lastAgent(netra.outline.runs, threadId)));
  const agent = agents.agents.length > 1 ? agents.current?.name : undefined;
  const actions = useMessageActions({ user, threadId, agent, onSent: toEnd });
  const stop = useCallback(() => {
    if (activeRunId !== undefined) void stopRun(activeRunId);
  }, [stopRun, activeRunId]);
  const { isDrawer, isOpen: isPanelOpen, close: closePanel, open: openPanel } = panel;
  const isDrawerOpen = isDrawer && isPanelOpen;
  const begin = useCallback(() => {
    openThread(newThreadId());
    if (isDrawer) closePanel();
    box.current?.focus();
  }, [isDrawer, closePanel]);
  const undoDeletion = useDeletedThread(threadId, list.deletion, begin);
  usePageKeys({ threadId, panel, searchBox, onNew: begin, onStop: stop });

  return (
    <ActionsContext value={actions}>
    <div className={isPanelOpen || isDrawer ? "layout" : "layout wide-open"}>
      <Sidebar
        list={list}
        current={threadId}
        user={name}
        panel={panel}
        searchBox={searchBox}
        notifying={notifying}
        onNew={begin}
        onSignOut={onSignOut}
      />
      <main className="main" inert={isDrawerOpen}>
        <header className="top">
          <button
            ref={opener}
            type="button"
            className="square opener"
            aria-label="Open conversations"
            aria-expanded={isPanelOpen}
            aria-controls="sidebar"
            onClick={openPanel}
          >
            <MenuIcon />
          </button>
          <h1 dir="auto" title={title}>{title}</h1>
          <ConnectionState />
          {!isEmpty && <ExportMenu title={title} />}
        </header>
        <SignInNotice onSignInAgain={onSignInAgain} />
        <ChatBanner threadId={threadId} onSignInAgain={onSignInAgain} />
        <UsageNotice />
        <div className="scroller" ref={scroller} tabIndex={-1}>
          <div className="column" ref={content}>
            <EarlierMessages threadId={threadId} hold={hold} />
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
      <Toasts deletion={list.deletion} onUndo={undoDeletion} />
      <Shortcuts />
    </div>
    </ActionsContext>
  );
}

/** The agent of the newest run of a thread. */
const lastAgent = (runs: readonly Run[], threadId: string) =>
  runs.findLast(({ thread_id, agent_name }) => thread_id === threadId && agent_name !== null)?.agent_name ?? null;
