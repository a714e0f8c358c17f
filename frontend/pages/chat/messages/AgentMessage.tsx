// The answer of an agent: its text, and what its run did.

import { memo, useCallback, useDeferredValue, useRef, useState } from "react";
import type { AgentEntry, ErrorBody, Run, RunStatus } from "../../../src/index.ts";
import { isEnd, isOpen } from "../../../src/index.ts";
import { RetryIcon } from "../../shared/icons.tsx";
import { pretty } from "../../shared/text.ts";
import { useAgentTitle } from "../agents/useAgents.ts";
import { Markdown } from "../markdown/Markdown.tsx";
import { ClosedQuestion, OpenQuestion } from "../questions/Questions.tsx";
import { MessageActions } from "./MessageActions.tsx";
import { Problem } from "./Problem.tsx";
import { Thoughts } from "./Thoughts.tsx";
import { Tool } from "./Tool.tsx";
import { durationText, ending, usageText } from "./words.ts";

interface AgentProps {
  readonly entry: AgentEntry | undefined;
  readonly run: Run | undefined;
  readonly status: RunStatus;
  readonly onRetry: (() => void) | undefined;
}

export const AgentMessage = memo(function AgentMessage({ entry, run, status, onRetry }: AgentProps) {
  const answer = useRef<HTMLDivElement>(null);
  const focused = useRef<string | null>(null);
  const [problems, setProblems] = useState<Readonly<Record<string, ErrorBody | undefined>>>({});
  const onProblem = useCallback(
    (id: string, problem: ErrorBody | undefined) => setProblems((all) => ({ ...all, [id]: problem })),
    [],
  );
  const questions = run?.questions ?? [];
  const open = questions.filter(isOpen);
  const isLive = !isEnd(status);
  const text = (entry?.content ?? run?.text) || resultOf(run);
  const shown = useDeferredValue(text);
  const end = ending(status, run?.error ?? entry?.error ?? null);
  const name = useAgentTitle(run?.agent_name ?? (entry?.payload["agent_name"] as string | undefined));
  return (
    // Screen readers do not read a busy element: it is busy until it is complete, or shows a question.
    <article className="message agent" aria-label={name} aria-busy={isLive && open.length === 0}>
      <header>
        <span className="agent-name">{name}</span>
        {run && run.attempt > 1 && <span className="note">attempt {run.attempt}</span>}
        {!isLive && <span className="note">{durationText(run)}</span>}
        {run && run.usage.length > 0 && <Tokens run={run} />}
      </header>
      {run && <Thoughts run={run} isLive={isLive} />}
      {questions.length > open.length && (
        <ul className="tools" aria-label="Questions">
          {questions.map(
            (question) =>
              !isOpen(question) && (
                <ClosedQuestion
                  key={question.question_id}
                  question={question}
                  focused={focused}
                  problem={problems[question.question_id]}
                />
              ),
          )}
        </ul>
      )}
      {run && run.tools.length > 0 && (
        <ul className="tools" aria-label="Tools">
          {run.tools.map((tool) => (
            <Tool key={tool.tool_call_id} tool={tool} />
          ))}
        </ul>
      )}
      {(entry?.truncated || run?.truncated) && (
        <p className="note">This answer is too long to be shown completely.</p>
      )}
      {shown && (
        <div ref={answer}>
          <Markdown text={shown} isWriting={isLive} />
        </div>
      )}
      {open.map((question) => (
        <OpenQuestion
          key={question.question_id}
          question={question}
          focused={focused}
          problem={problems[question.question_id]}
          onProblem={onProblem}
        />
      ))}
      {isLive && !shown && open.length === 0 && <span className="dots" aria-hidden="true" />}
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

function Tokens({ run }: { run: Run }) {
  const { short, long } = usageText(run);
  return <span className="note" title={long}>{short}</span>;
}

/** The result of a run that streamed no text, as Markdown. */
function resultOf(run: Run | undefined): string {
  const result = run?.status === "completed" ? run.result : undefined;
  if (result === undefined || result === null) return "";
  return typeof result === "string" ? result : `\`\`\`json\n${pretty(result)}\n\`\`\``;
}
