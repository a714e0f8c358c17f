// The answer of an agent: its parts, how its run ended, and what to do with it.

import { memo, useRef } from "react";
import type { ListedFile, Run } from "../../../src/index.ts";
import { isEnd, isOpen } from "../../../src/index.ts";
import { RetryIcon } from "../../shared/icons.tsx";
import { Attachments } from "../files/Attachments.tsx";
import { Answer } from "./Answer.tsx";
import type { AgentItem } from "./conversation.ts";
import { MessageActions } from "./MessageActions.tsx";
import { Problem } from "./Problem.tsx";
import { resultOf } from "./result.ts";
import { durationText, ending, usageText } from "./words.ts";

interface AgentProps {
  readonly item: AgentItem;
  /** Of the agent. */
  readonly title: string;
  readonly onRetry: (() => void) | undefined;
}

export const AgentMessage = memo(function AgentMessage({ item, title, onRetry }: AgentProps) {
  const { entry, run, status } = item;
  const answer = useRef<HTMLDivElement>(null);
  const isLive = !isEnd(status);
  const isAsking = run?.questions.some(isOpen) === true;
  const files = filesOf(item);
  const text = (entry?.content ?? run?.text) || resultOf(run);
  const isEmpty = status === "completed" && text.trim() === "" && (run?.parts ?? entry?.parts ?? []).length === 0 && files.length === 0;
  const end = ending(status, run?.error ?? entry?.error ?? null);
  return (
    // Screen readers do not read a busy element: it is busy until it is complete, or shows a question.
    <article className="message agent" aria-label={title} aria-busy={isLive && !isAsking} tabIndex={-1}>
      <header>
        <span className="agent-name" dir="auto">{title}</span>
        {run && run.attempt > 1 && <span className="note">attempt {run.attempt}</span>}
        {!isLive && <span className="note">{durationText(run)}</span>}
        {run && run.usage.length > 0 && <Tokens run={run} />}
      </header>
      {(entry?.truncated || run?.truncated) && (
        <p className="note">This answer is too long to be shown completely.</p>
      )}
      {isEmpty && <p className="note">{run ? "This answer has no text." : "No text of this answer is stored."}</p>}
      <div className="parts" ref={answer}>
        <Answer runId={run?.run_id ?? null} text={text} isLive={isLive} />
      </div>
      <Attachments files={files} />
      {end && (
        <Problem {...end} isCalm={status === "cancelled"}>
          {onRetry && (
            <button type="button" className="quiet" onClick={onRetry}>
              <RetryIcon />
              Regenerate
            </button>
          )}
        </Problem>
      )}
      {run?.abandoned && <p className="note">A part of this run did not stop, and may still be running.</p>}
      {!isLive && (
        <MessageActions entry={entry} text={text} source={answer} onRegenerate={end ? undefined : onRetry} />
      )}
    </article>
  );
});

/** The history may have the files of a run whose end was missed. */
function filesOf({ entry, run }: AgentItem): readonly ListedFile[] {
  const live = run?.attachments ?? [];
  return live.length > 0 ? live : (entry?.attachments ?? []);
}

function Tokens({ run }: { run: Run }) {
  const { short, long } = usageText(run);
  return <span className="note" title={long}>{short}</span>;
}
