// The state of the connection: a short text at the top, and a banner for errors.

import { type ReactNode, type RefObject, useLayoutEffect, useRef, useState, useSyncExternalStore } from "react";
import type { ErrorBody, Snapshot } from "../../src/index.ts";
import { shallowEqual, useNetra } from "../../src/react/index.ts";
import { threadOf } from "./messages/conversation.ts";
import { AlertIcon, CloseIcon } from "../shared/icons.tsx";
import { useNow } from "../shared/useNow.ts";
import { Details } from "../shared/Details.tsx";
import { connection, wantsSignIn } from "./connectionText.ts";
import { explain } from "./errorText.ts";

const NOTICE_MS = 50_000; // before a sign-in ends: a renewal, a minute before, is complete by then

export function ConnectionState() {
  const state = useNetra(
    ({ status, isConnected, queued, retry }) => ({ status, isConnected, queued, retry }),
    shallowEqual,
  );
  const isOnline = useSyncExternalStore(onLine, () => navigator.onLine);
  const now = useNow(state.retry !== null);
  const shown = connection(state, isOnline, now);
  const place = useRef<HTMLDivElement>(null);
  return (
    <div ref={place} tabIndex={-1} className={`connection ${shown.mood}`}>
      <span className="lamp" aria-hidden="true" />
      <span role="status" aria-label="Connection">
        {shown.text}
        {shown.countdown && <span aria-hidden="true">{shown.countdown}</span>}
        {shown.more}
      </span>
      <TryNow retry={state.retry} isReconnecting={state.status === "RECONNECTING" && isOnline} place={place} />
    </div>
  );
}

const LONG_MS = 3_000; // a shorter wait is over before a reader could use the button

interface TryNowProps {
  readonly retry: Snapshot["retry"];
  readonly isReconnecting: boolean;
  /** Gets the focus when the button that has it goes. */
  readonly place: RefObject<HTMLElement | null>;
}

/** Ends a long wait before the next attempt. It stays until there is a connection, with the focus. */
function TryNow({ retry, isReconnecting, place }: TryNowProps) {
  const retryNow = useNetra((netra) => netra.retryNow);
  const [isShown, setIsShown] = useState(false);
  const shouldShow = isReconnecting && (isShown || (retry !== null && retry.delay_ms >= LONG_MS));
  if (shouldShow !== isShown) setIsShown(shouldShow);
  if (!shouldShow) return null;
  return <TryNowButton isWaiting={retry !== null && retry.earliest < retry.at} onTry={retryNow} place={place} />;
}

interface TryNowButtonProps extends Pick<TryNowProps, "place"> {
  readonly isWaiting: boolean;
  readonly onTry: () => void;
}

function TryNowButton({ isWaiting, onTry, place }: TryNowButtonProps) {
  const button = useRef<HTMLButtonElement>(null);
  useLayoutEffect(() => {
    const own = button.current;
    const next = place.current;
    return () => {
      if (own !== null && own === document.activeElement) next?.focus();
    };
  }, [place]);
  return (
    <button
      ref={button}
      type="button"
      className="quiet try-now"
      aria-disabled={!isWaiting}
      onClick={() => {
        if (isWaiting) onTry();
      }}
    >
      Try now
    </button>
  );
}

interface NoticeProps {
  readonly onSignInAgain: (why: { readonly error: string; readonly help: string }) => void;
}

/** A countdown while the sign-in ends, if its token is not renewed. */
export function SignInNotice({ onSignInAgain }: NoticeProps) {
  const tokenEndsAt = useNetra((netra) => (netra.isConnected ? netra.tokenEndsAt : null));
  const left = (tokenEndsAt ?? Infinity) - useNow(tokenEndsAt !== null);
  if (left > NOTICE_MS) return null;
  const help = "Sign in again to stay connected.";
  return (
    <div className="banner calm" role="note">
      <AlertIcon />
      <p>
        Your sign-in ends in {Math.max(0, Math.ceil(left / 1000))} s. <span className="help">{help}</span>
      </p>
      <button
        type="button"
        className="secondary"
        onClick={() => onSignInAgain({ error: "Your sign-in ended.", help })}
      >
        Sign in again
      </button>
    </div>
  );
}

interface BannerProps extends NoticeProps {
  readonly threadId: string;
}

/** The last error of the connection, with a button that helps. */
export function Banner({ threadId, onSignInAgain }: BannerProps) {
  const error = useNetra((netra) => errorToShow(netra, threadId));
  const { status, isConnected } = useNetra(
    (netra) => ({ status: netra.status, isConnected: netra.isConnected }),
    shallowEqual,
  );
  const forceReconnect = useNetra((netra) => netra.forceReconnect);
  const clearError = useNetra((netra) => netra.clearError);
  if (error === null) return null;
  const { text, help, details } = explain(error);
  let action: ReactNode = null;
  if (!isConnected && wantsSignIn(error)) {
    action = (
      <button type="button" className="secondary" onClick={() => onSignInAgain(error)}>
        Sign in again
      </button>
    );
  } else if (status === "ERROR" || status === "DISCONNECTED") {
    action = (
      <button type="button" className="secondary" onClick={() => forceReconnect()}>
        Connect again
      </button>
    );
  }
  return (
    <div className={status === "RECONNECTING" ? "banner calm" : "banner"} role="alert">
      <AlertIcon />
      <div className="said">
        <p>
          {text} {help && <span className="help">{help}</span>}
        </p>
        <Details text={details} />
      </div>
      {action}
      <button type="button" className="square" aria-label="Dismiss" onClick={() => clearError()}>
        <CloseIcon />
      </button>
    </div>
  );
}

function errorToShow({ lastError, messages }: Snapshot, threadId: string): ErrorBody | null {
  // A thread is unknown to the server until its first message, so this is no error here.
  if (lastError === null || lastError.code === "THREAD_NOT_FOUND") return null;
  // An error of a message is shown at that message.
  const isAtMessage = messages.some(
    (entry) =>
      threadOf(entry) === threadId &&
      entry.error?.code === lastError.code &&
      entry.error.timestamp === lastError.timestamp,
  );
  return isAtMessage ? null : lastError;
}

function onLine(run: () => void): () => void {
  addEventListener("online", run);
  addEventListener("offline", run);
  return () => {
    removeEventListener("online", run);
    removeEventListener("offline", run);
  };
}
