// The state of the connection as a short text, with a button that ends a long wait.

import { type RefObject, useLayoutEffect, useRef, useState, useSyncExternalStore } from "react";
import type { Snapshot } from "../../../src/index.ts";
import { shallowEqual, useNetra } from "../../../src/react/index.ts";
import { useNow } from "../useNow.ts";
import { connection } from "./text.ts";

export function ConnectionState() {
  const state = useNetra(
    ({ status, isConnected, queued, retry, connectionStats: { transport } }) => ({
      ...{ status, isConnected, queued, retry, transport },
    }),
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

function onLine(run: () => void): () => void {
  addEventListener("online", run);
  addEventListener("offline", run);
  return () => {
    removeEventListener("online", run);
    removeEventListener("offline", run);
  };
}
