// The button above the messages that loads earlier ones.

import { useLayoutEffect, useRef } from "react";
import { useHistory } from "./useHistory.ts";

interface EarlierProps {
  readonly threadId: string;
  /** Keep what the user reads in its place. */
  readonly hold: () => void;
}

export function EarlierMessages({ threadId, hold }: EarlierProps) {
  const { hasEarlier, progress, loadEarlier } = useHistory(threadId);
  const button = useRef<HTMLButtonElement>(null);
  const status = useRef<HTMLParagraphElement>(null);
  const hadFocus = useRef(false);
  useLayoutEffect(() => {
    // With the last page the button goes: its focus moves to the first message that it has loaded.
    if (hadFocus.current && !hasEarlier) {
      status.current?.parentElement?.querySelector<HTMLElement>(".log > .message")?.focus({ preventScroll: true });
    }
    hadFocus.current = false;
  }, [hasEarlier]);
  const load = () => {
    hold();
    loadEarlier();
  };
  return (
    <>
      {hasEarlier && (
        <button
          ref={button}
          type="button"
          className="quiet earlier"
          aria-disabled={progress === "loading"}
          onFocus={() => (hadFocus.current = true)}
          onBlur={(event) => (hadFocus.current = !event.currentTarget.isConnected)}
          onClick={load}
        >
          {progress === "loading" ? "Loading…" : "Show earlier messages"}
        </button>
      )}
      <p ref={status} role="status" className={progress === "failed" ? "note earlier-state" : "only-read"}>
        {statusText(progress)}
      </p>
    </>
  );
}

function statusText(progress: ReturnType<typeof useHistory>["progress"]): string {
  if (progress === "failed") return "The earlier messages could not be loaded. Try again.";
  if (typeof progress === "string") return "";
  const { loaded } = progress;
  return loaded === 1 ? "1 earlier message is shown above." : `${loaded} earlier messages are shown above.`;
}
