// The box to type in: Enter sends, Shift and Enter begins a new line, Escape stops the answer.

import { type KeyboardEvent, type RefObject, useEffect, useLayoutEffect, useState } from "react";
import { SendIcon, StopIcon } from "../../shared/icons.tsx";

interface Props {
  readonly box: RefObject<HTMLTextAreaElement | null>;
  /** The draft is stored under this name until it is sent. */
  readonly draftName: string;
  readonly isRunning: boolean;
  readonly onSend: (content: string) => void;
  readonly onStop: () => void;
}

const MAX_HEIGHT = 220; // pixels: about nine lines, then the box scrolls

export function Composer({ box, draftName, isRunning, onSend, onStop }: Props) {
  const [text, setText] = useState(() => readDraft(draftName));
  useEffect(() => storeDraft(draftName, text), [draftName, text]);
  useLayoutEffect(() => fit(box.current), [box, text]);

  const send = () => {
    if (!text.trim()) return;
    onSend(text);
    setText("");
    box.current?.focus();
  };
  const onKeyDown = (event: KeyboardEvent) => {
    // While an input method composes a character, Enter accepts it.
    if (event.key === "Enter" && !event.shiftKey && !event.nativeEvent.isComposing) {
      event.preventDefault();
      send();
    }
  };
  return (
    <div className="composer">
      <div className="box">
        <textarea
          ref={box}
          aria-label="Message"
          aria-describedby="keys"
          placeholder="Message the agent"
          rows={1}
          value={text}
          onChange={(event) => setText(event.target.value)}
          onKeyDown={onKeyDown}
          autoFocus
        />
        {isRunning && (
          <button type="button" className="round stop" aria-label="Stop" title="Stop (Esc)" onClick={onStop}>
            <StopIcon />
          </button>
        )}
        <button
          type="button"
          className="round send"
          aria-label="Send"
          title="Send (Enter)"
          disabled={!text.trim()}
          onClick={send}
        >
          <SendIcon />
        </button>
      </div>
      <p className="keys" id="keys">
        Enter sends, Shift+Enter begins a new line, Esc stops the answer
      </p>
    </div>
  );
}

/** Make the box as high as its text. */
function fit(area: HTMLTextAreaElement | null): void {
  if (!area) return;
  area.style.height = "auto";
  area.style.height = `${Math.min(area.scrollHeight, MAX_HEIGHT)}px`;
}

function readDraft(name: string): string {
  try {
    return sessionStorage.getItem(name) ?? "";
  } catch {
    return "";
  }
}

function storeDraft(name: string, text: string): void {
  try {
    if (text) sessionStorage.setItem(name, text);
    else sessionStorage.removeItem(name);
  } catch {
    // Without storage the draft lasts as long as the page.
  }
}
