// One message: of the user, or of an agent.

import { memo, useCallback, useDeferredValue, useRef, useState } from "react";
import type { AgentEntry, ErrorBody, Run, RunStatus, ToolCall, UserEntry } from "../../src/index.ts";
import { isEnd, isOpen } from "../../src/index.ts";
import { CopyButton } from "./CopyButton.tsx";
import { Markdown } from "./Markdown.tsx";
import { AlertIcon, CheckIcon, ChevronIcon, CrossIcon, RetryIcon, ThoughtIcon, ToolIcon } from "./icons.tsx";
import { ClosedQuestion, OpenQuestion } from "./Questions.tsx";
import { duration, pretty } from "./text.ts";
import { delivery, durationText, ending, usageText } from "./words.ts";

interface UserProps {
  readonly entry: UserEntry;
  readonly runStatus: RunStatus | undefined;
  /** In the queue. */
  readonly position: number | null;
  readonly isConnected: boolean;
  /** Absent if the message cannot be sent again. */
  readonly onRetry: ((entry: UserEntry) => void) | undefined;
}

export const UserMessage = memo(function UserMessage(props: UserProps) {
  const { entry, runStatus, position, isConnected, onRetry } = props;
  const state = delivery(entry, isConnected, runStatus ?? entry.run_status, position);
  return (
    <article className={`message user ${entry.status}`} aria-label="You">
      <div className="bubble">{entry.content}</div>
      {state && entry.status !== "failed" && <p className="note">{state}</p>}
      {entry.status === "failed" && (
        <Problem
          text={`${state}. ${entry.error?.error ?? ""}`.trim()}
          help={entry.error?.help ?? ""}
          onRetry={onRetry && (() => onRetry(entry))}
        />
      )}
    </article>
  );
});

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
  const name = run?.agent_name ?? (entry?.payload["agent_name"] as string | undefined) ?? "Agent";
  const error: ErrorBody | null = run?.error ?? entry?.error ?? null;
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
      {end && <Problem {...end} id={error?.error_id} isCalm={status === "cancelled"} onRetry={onRetry} />}
      {run?.abandoned && <p className="note">A part of this run did not stop, and may still be running.</p>}
      {!isLive && text && (
        <div className="actions">
          <CopyButton text={text} source={answer} what="answer" />
        </div>
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

function Thoughts({ run, isLive }: { run: Run; isLive: boolean }) {
  const last = run.thoughts.at(-1);
  if (!last) return null;
  const steps = last.total_steps ? `${last.step_number ?? run.thoughts.length} of ${last.total_steps}` : "";
  const count = run.thoughts.length;
  return (
    <details className="thoughts">
      <summary>
        <ThoughtIcon />
        <span className={isLive && !run.text ? "summary shimmers" : "summary"}>
          {isLive ? last.thought : `${count} ${count === 1 ? "thought" : "thoughts"}`}
        </span>
        {isLive && steps && <span className="note">{steps}</span>}
        <ChevronIcon />
      </summary>
      <ol>
        {run.thoughts.map((thought, index) => (
          <li key={index}>{thought.thought}</li>
        ))}
      </ol>
    </details>
  );
}

const TOOL_STATE: Record<ToolCall["status"], string> = {
  running: "running",
  succeeded: "done",
  failed: "failed",
  cut: "cut off",
};

function Tool({ tool }: { tool: ToolCall }) {
  const output = tool.status === "failed" ? tool.error : tool.result;
  return (
    <li>
      <details className={`tool ${tool.status}`}>
        <summary>
          <ToolIcon />
          <span className="summary">
            <code>{tool.tool_name}</code>
          </span>
          <span className="tool-state">
            {tool.status === "running" && <span className="spinner" aria-hidden="true" />}
            {tool.status === "succeeded" && <CheckIcon />}
            {(tool.status === "failed" || tool.status === "cut") && <CrossIcon />}
            {TOOL_STATE[tool.status]}
            {tool.duration_ms !== undefined && ` · ${duration(tool.duration_ms)}`}
          </span>
          <ChevronIcon />
        </summary>
        <dl>
          <dt>Arguments</dt>
          <dd>
            <pre tabIndex={0} aria-label="Arguments">{pretty(tool.arguments)}</pre>
          </dd>
          {output !== undefined && (
            <>
              <dt>{tool.status === "failed" ? "Error" : "Result"}</dt>
              <dd>
                <pre tabIndex={0} aria-label="Result">{pretty(output)}</pre>
              </dd>
            </>
          )}
          {tool.truncated && <dd className="note">This is too long to be shown completely.</dd>}
        </dl>
      </details>
    </li>
  );
}

interface ProblemProps {
  readonly text: string;
  readonly help: string;
  readonly id?: string | undefined;
  readonly isCalm?: boolean;
  readonly onRetry: (() => void) | undefined;
}

function Problem({ text, help, id, isCalm = false, onRetry }: ProblemProps) {
  return (
    <div className={isCalm ? "problem calm" : "problem"}>
      {!isCalm && <AlertIcon />}
      <p>
        {text} {help && <span className="help">{help}</span>}
        {id && <span className="help"> Error id: {id}</span>}
      </p>
      {onRetry && (
        <button type="button" className="quiet" onClick={onRetry}>
          <RetryIcon />
          Send again
        </button>
      )}
    </div>
  );
}
