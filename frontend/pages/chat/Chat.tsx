// The page: conversations at the side, the messages, and the box to type in. It selects little of the
// client's state, so that it does not render again while an answer is streamed.

import { useCallback, useEffect, useRef, useState } from "react";
import { useNetra, useThreads, useWatch } from "../../src/react/index.ts";
import { Composer } from "./composer/Composer.tsx";
import { Banner, ConnectionState, SignInNotice } from "./Connection.tsx";
import { conversationOf } from "./messages/conversation.ts";
import { MessageList } from "./messages/MessageList.tsx";
import { Sidebar } from "./threads/Sidebar.tsx";
import { DownIcon, MenuIcon } from "../shared/icons.tsx";
import { titleOf } from "./threads/title.ts";
import { addressOf, newThreadId } from "./threads/address.ts";
import { useHistory } from "./messages/useHistory.ts";
import { useMarkRead } from "./threads/useMarkRead.ts";
import { useSend } from "./composer/useSend.ts";
import { useStickToEnd } from "./messages/useStickToEnd.ts";
import { Welcome } from "./Welcome.tsx";

interface Props {
  readonly user: string;
  readonly threadId: string;
  readonly examples: readonly string[];
  readonly onSignOut: (() => void) | undefined;
  readonly onSignInAgain: (why: { readonly error: string; readonly help: string }) => void;
}

export function Chat({ user, threadId, examples, onSignOut, onSignInAgain }: Props) {
  const threads = useThreads();
  useWatch(threadId);
  const isEmpty = useNetra((netra) => conversationOf(netra, threadId).keys.length === 0);
  const first = useNetra((netra) => conversationOf(netra, threadId).first);
  const activeRunId = useNetra((netra) => conversationOf(netra, threadId).activeRunId);
  const stopRun = useNetra((netra) => netra.stopRun);
  const subscribe = useNetra((netra) => netra.subscribe);
  const { send, sendAgain } = useSend();
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

  const sendHere = useCallback(
    (text: string) => {
      send(text);
      toEnd();
    },
    [send, toEnd],
  );
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
      if (event.key !== "Escape" || event.defaultPrevented || event.isComposing) return;
      if (isDrawerOpen) setDrawerOpen(false);
      else stop();
    };
    addEventListener("keydown", onKey);
    return () => removeEventListener("keydown", onKey);
  }, [isDrawerOpen, stop]);

  return (
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
            {isEmpty && <Welcome examples={examples} onPick={sendHere} />}
            <MessageList threadId={threadId} onSendAgain={sendAgain} />
          </div>
        </div>
        <div className="foot">
          {!isAtEnd && (
            <button type="button" className="to-end" onClick={toEnd}>
              <DownIcon />
              Latest
            </button>
          )}
          <Composer
            key={threadId}
            box={box}
            draftName={`netra.draft.${user}.${threadId}`}
            isRunning={activeRunId !== undefined}
            onSend={sendHere}
            onStop={stop}
          />
        </div>
      </main>
    </div>
  );
}
