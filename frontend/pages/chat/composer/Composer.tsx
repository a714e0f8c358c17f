// The box for a new message, with its files and the choice of its agent. Both stay until the message is
// accepted; a message that is sent before its files are uploaded waits for them.

import { type RefObject, useDeferredValue, useState } from "react";
import { isUnderWay } from "../../../src/index.ts";
import { SendIcon, StopIcon } from "../../shared/icons.tsx";
import { useTouch } from "../../shared/useTouch.ts";
import { AgentPicker } from "../agents/AgentPicker.tsx";
import type { Agents } from "../agents/useAgents.ts";
import { AttachButton } from "../files/AttachButton.tsx";
import { textOfFiles } from "../files/describe.ts";
import { DropTarget } from "../files/DropTarget.tsx";
import { UploadStrip } from "../files/UploadStrip.tsx";
import { useComposerFiles } from "../files/useComposerFiles.ts";
import { namesOf } from "../shortcuts.ts";
import { useActions } from "./actions.ts";
import { faultText } from "./excess.ts";
import { MessageBox } from "./MessageBox.tsx";
import { useDraft } from "./useDraft.ts";
import { useSubmitLater, useWaiting } from "./useWaiting.ts";

interface Props {
  readonly box: RefObject<HTMLTextAreaElement | null>;
  readonly agents: Agents;
  readonly isRunning: boolean;
  readonly onStop: () => void;
}

export function Composer({ box, agents, isRunning, onStop }: Props) {
  const { user, threadId, send, check } = useActions();
  const [text, setText] = useDraft(user, threadId);
  const files = useComposerFiles(user, threadId);
  const [refused, setRefused] = useState<"message" | "files" | null>(null);
  // After a refusal the text is checked while the user shortens it.
  const checked = useDeferredValue(text);
  const waiting = useWaiting();
  const checkText = (content: string) => check(content, files.fileIds);
  const error = refused === "message" && checked.trim() ? checkText(checked) : null;
  const isTouch = useTouch();
  const isEmpty = !text.trim() && files.uploads.length === 0;

  const submit = (isUrgent: boolean) => {
    // The newest state: this may be called before it is rendered.
    const uploads = files.list.getSnapshot();
    if (!text.trim() && uploads.length === 0) return;
    box.current?.focus();
    const hasFailed = uploads.some(({ status }) => status === "failed");
    const isWaiting = !hasFailed && uploads.some(isUnderWay);
    waiting.wait(isWaiting ? { isUrgent } : null);
    if (hasFailed) setRefused("files");
    if (hasFailed || isWaiting) return;
    const content = text.trim() ? text : textOfFiles(uploads);
    const ids = uploads.flatMap(({ file }) => file?.file_id ?? []);
    const isSent = send(content, { isUrgent: isUrgent && isRunning, files: ids }) === null;
    setRefused(isSent ? null : "message");
    if (!isSent) return;
    setText("");
    files.clear();
  };
  useSubmitLater(waiting, files.list, submit);
  const fault = error ? faultText(checked, error, checkText) : refused === "files" && files.hasFailed ? FAILED : null;
  return (
    <div className="composer">
      {files.isOver && <DropTarget />}
      {fault !== null && (
        <p className="fault" id="composer-fault" role="alert">{fault}</p>
      )}
      {files.lost !== "" && (
        <p className="note lost-files">
          <span>Deleted after 24 hours: <bdi>{files.lost}</bdi>. Add them again.</span>
          <button type="button" className="quiet" onClick={files.forgetLost}>OK</button>
        </p>
      )}
      <UploadStrip {...files} />
      <div className="box">
        {files.isOffered && <AttachButton onFiles={files.add} />}
        <MessageBox
          box={box}
          label="Message"
          text={text}
          onChange={setText}
          onSend={submit}
          describedBy={fault === null ? "keys" : "composer-fault keys"}
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
          disabled={isEmpty || waiting.isWaiting}
          onClick={() => submit(false)}
        >
          <SendIcon />
        </button>
      </div>
      <div className="under">
        <AgentPicker {...agents} />
        {waiting.isWaiting && (
          <p className="note waiting" role="status">
            The message is sent once the files are uploaded
            <button type="button" className="quiet" onClick={() => waiting.wait(null)}>Do not send</button>
          </p>
        )}
        {isRunning && !isEmpty && !waiting.isWaiting && (
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

const FAILED = "Remove the files that were not uploaded, or try them again.";

const URGENT = namesOf({ keys: ["Mod", "Enter"] }).join("+");

const hint = (isRunning: boolean) =>
  isRunning
    ? "Enter sends after this answer, Esc stops it"
    : "Enter sends, Shift+Enter begins a new line";
