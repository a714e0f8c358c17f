// The box for a new message, with the choice of its agent. The text stays until the message is accepted.

import { type RefObject, useDeferredValue, useState } from "react";
import { SendIcon, StopIcon } from "../../shared/icons.tsx";
import { useTouch } from "../../shared/useTouch.ts";
import { AgentPicker } from "../agents/AgentPicker.tsx";
import type { Agents } from "../agents/useAgents.ts";
import { namesOf } from "../shortcuts.ts";
import { useActions } from "./actions.ts";
import { faultText } from "./excess.ts";
import { MessageBox } from "./MessageBox.tsx";
import { useDraft } from "./useDraft.ts";

interface Props {
  readonly box: RefObject<HTMLTextAreaElement | null>;
  readonly agents: Agents;
  readonly isRunning: boolean;
  readonly onStop: () => void;
}

export function Composer({ box, agents, isRunning, onStop }: Props) {
  const { user, threadId, send, check } = useActions();
  const [text, setText] = useDraft(user, threadId);
  const [wasRefused, setRefused] = useState(false);
  // After a refusal the text is checked while the user shortens it.
  const checked = useDeferredValue(text);
  const error = wasRefused && checked.trim() ? check(checked) : null;
  const isTouch = useTouch();

  const submit = (isUrgent: boolean) => {
    if (!text.trim()) return;
    const isSent = send(text, { isUrgent: isUrgent && isRunning }) === null;
    setRefused(!isSent);
    if (isSent) setText("");
    box.current?.focus();
  };
  return (
    <div className="composer">
      {error && (
        <p className="fault" id="composer-fault" role="alert">{faultText(checked, error, check)}</p>
      )}
      <div className="box">
        <MessageBox
          box={box}
          label="Message"
          text={text}
          onChange={setText}
          onSend={submit}
          describedBy={error ? "composer-fault keys" : "keys"}
          isInvalid={error !== null}
          placeholder="Message the agent"
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
          title={isTouch ? "Send" : "Send (Enter)"}
          disabled={!text.trim()}
          onClick={() => submit(false)}
        >
          <SendIcon />
        </button>
      </div>
      <div className="under">
        <AgentPicker {...agents} />
        {isRunning && text.trim() !== "" && (
          <button type="button" className="quiet" title={URGENT} onClick={() => submit(true)}>
            Stop the answer and send
          </button>
        )}
        <p className="keys" id="keys">
          {isTouch ? "Enter begins a new line, the arrow sends" : hint(isRunning)}
        </p>
      </div>
    </div>
  );
}

const URGENT = namesOf({ keys: ["Mod", "Enter"] }).join("+");

const hint = (isRunning: boolean) =>
  isRunning
    ? "Enter sends after this answer, Esc stops it"
    : "Enter sends, Shift+Enter begins a new line";
