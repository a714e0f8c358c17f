// The conversation: its messages, where one types, and how the connection is.

import {
  type ReactNode,
  useCallback,
  useEffect,
  useMemo,
  useRef,
  useState,
  useSyncExternalStore,
} from "react";
import type { ErrorBody, Snapshot, UserEntry } from "../../src/index.ts";
import { Composer } from "./Composer.tsx";
import { AgentMessage, UserMessage } from "./Messages.tsx";
import { Sidebar } from "./Sidebar.tsx";
import { AlertIcon, CloseIcon, DownIcon, ICON, MenuIcon } from "./icons.tsx";
import { titleOf } from "./text.ts";
import { addressOf, newThreadId, Threads } from "./threads.ts";
import { type Conversations, type Item, useConversations } from "./useConversations.ts";
import { useStickToEnd } from "./useStickToEnd.ts";
import { connection, wantsSignIn } from "./words.ts";

const TICK_MS = 500; // a countdown of seconds, never more than half of one late

interface Props {
  readonly user: string;
  readonly threadId: string;
  readonly examples: readonly string[];
  readonly onSignOut: (() => void) | undefined;
  readonly onSignInAgain: (why: ErrorBody) => void;
}

export function Chat({ user, threadId, examples, onSignOut, onSignInAgain }: Props) {
  const threads = useMemo(() => new Threads(user), [user]);
  const listed = useSyncExternalStore(threads.subscribe, threads.list);
  const talk = useConversations(threadId);
  const { socket, items, activeRun } = talk;
  const [isDrawerOpen, setDrawerOpen] = useState(false);
  const box = useRef<HTMLTextAreaElement>(null);
  const opener = useRef<HTMLButtonElement>(null);
  const { scroller, content, isAtEnd, toEnd } = useStickToEnd(threadId);

  const title = listed.find((thread) => thread.id === threadId)?.title ?? "New conversation";
  useEffect(() => {
    document.title = items.length > 0 ? `${title} – Chat` : "Chat";
  }, [title, items.length]);

  // A thread that was opened by its address alone is listed once there is something in it.
  const first = items.find((item) => item.kind === "user")?.entry;
  useEffect(() => {
    if (first && !threads.has(threadId)) {
      threads.touch(threadId, titleOf(first.content), first.timestamp * 1000);
    }
  }, [first, threadId, threads]);

  const send = useCallback(
    (text: string) => {
      talk.send(text);
      threads.touch(threadId, titleOf(text), Date.now());
      toEnd();
    },
    [talk, threads, threadId, toEnd],
  );
  const stop = useCallback(() => {
    if (activeRun) talk.stop(activeRun);
  }, [talk, activeRun]);
  const again = useCallback((entry: UserEntry) => talk.again(entry), [talk]);
  const begin = useCallback(() => {
    location.hash = addressOf(newThreadId());
    setDrawerOpen(false);
    box.current?.focus();
  }, []);

  const wasOpen = useRef(false);
  useEffect(() => {
    // Who closed the list goes back to where it was opened, unless something else has the focus.
    const isFree = document.activeElement?.matches("body, #sidebar *") ?? true;
    if (wasOpen.current && !isDrawerOpen && isFree) opener.current?.focus();
    wasOpen.current = isDrawerOpen;
  }, [isDrawerOpen]);

  useEffect(() => {
    const onKey = (event: KeyboardEvent) => {
      // While a character is being composed, Escape takes that back, and nothing else.
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
        threads={listed}
        current={threadId}
        user={user}
        isOpen={isDrawerOpen}
        onClose={() => setDrawerOpen(false)}
        onNew={begin}
        onRemove={(id) => {
          threads.remove(id);
          if (id === threadId) begin();
        }}
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
          <ConnectionState snapshot={socket} />
        </header>
        <Banner talk={talk} onSignInAgain={onSignInAgain} />
        <div className="scroller" ref={scroller} tabIndex={-1}>
          <div className="column" ref={content}>
            {talk.hasEarlier && (
              <button type="button" className="quiet earlier" onClick={talk.loadEarlier}>
                Show earlier messages
              </button>
            )}
            {items.length === 0 && <Welcome examples={examples} onPick={send} />}
            <div role="log" aria-label="Conversation" className="log">
              {items.map((item, index) => (
                <Message
                  key={item.key}
                  item={item}
                  isLast={index === items.length - 1}
                  isConnected={socket.isConnected}
                  again={again}
                />
              ))}
            </div>
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
            isRunning={activeRun !== undefined}
            onSend={send}
            onStop={stop}
          />
        </div>
      </main>
    </div>
  );
}

interface MessageProps {
  readonly item: Item;
  readonly isLast: boolean;
  readonly isConnected: boolean;
  readonly again: (entry: UserEntry) => void;
}

function Message({ item, isLast, isConnected, again }: MessageProps) {
  const question = item.kind === "agent" && isLast ? item.question : undefined;
  const onRetry = useMemo(() => question && (() => again(question)), [question, again]);
  if (item.kind === "user") {
    return <UserMessage entry={item.entry} run={item.run} isConnected={isConnected} onRetry={again} />;
  }
  return <AgentMessage entry={item.entry} run={item.run} status={item.status} onRetry={onRetry} />;
}

function ConnectionState({ snapshot }: { snapshot: Snapshot }) {
  const isOnline = useSyncExternalStore(onLine, () => navigator.onLine);
  const now = useNow(snapshot.retry !== null);
  const said = connection(snapshot, isOnline, now);
  return (
    <div role="status" aria-label="Connection" className={`connection ${said.mood}`}>
      <span className="lamp" aria-hidden="true" />
      <span>
        {said.text}
        {said.countdown && <span aria-hidden="true">{said.countdown}</span>}
        {said.more}
      </span>
    </div>
  );
}

/** What is wrong with the connection, with what helps. */
function Banner({ talk, onSignInAgain }: { talk: Conversations; onSignInAgain: (why: ErrorBody) => void }) {
  const { socket } = talk;
  const error = socket.lastError;
  if (!error || talk.isShownElsewhere(error)) return null;
  let act: ReactNode = null;
  if (!socket.isConnected && wantsSignIn(error)) {
    act = (
      <button type="button" className="secondary" onClick={() => onSignInAgain(error)}>
        Sign in again
      </button>
    );
  } else if (socket.status === "ERROR" || socket.status === "DISCONNECTED") {
    act = (
      <button type="button" className="secondary" onClick={() => socket.forceReconnect()}>
        Connect again
      </button>
    );
  }
  return (
    <div className={socket.isReconnecting ? "banner calm" : "banner"} role="alert">
      <AlertIcon />
      <p>
        {error.error} {error.help && <span className="help">{error.help}</span>}
        {error.error_id && <span className="help"> Error id: {error.error_id}</span>}
      </p>
      {act}
      <button type="button" className="square" aria-label="Dismiss" onClick={() => socket.clearError()}>
        <CloseIcon />
      </button>
    </div>
  );
}

function Welcome({ examples, onPick }: { examples: readonly string[]; onPick: (text: string) => void }) {
  return (
    <section className="welcome">
      <img src={ICON} alt="" width="56" height="56" />
      <h2>What would you like to know?</h2>
      {examples.length > 0 && (
        <ul className="examples" aria-label="Examples">
          {examples.map((example) => (
            <li key={example}>
              <button type="button" onClick={() => onPick(example)}>{example}</button>
            </li>
          ))}
        </ul>
      )}
    </section>
  );
}

function useNow(isTicking: boolean): number {
  const [now, setNow] = useState(Date.now);
  useEffect(() => {
    if (!isTicking) return undefined;
    const tick = () => setNow(Date.now());
    const first = setTimeout(tick);
    const timer = setInterval(tick, TICK_MS);
    return () => {
      clearTimeout(first);
      clearInterval(timer);
    };
  }, [isTicking]);
  return now;
}

function onLine(run: () => void): () => void {
  addEventListener("online", run);
  addEventListener("offline", run);
  return () => {
    removeEventListener("online", run);
    removeEventListener("offline", run);
  };
}

