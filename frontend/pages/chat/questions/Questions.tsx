// Questions of agents: an open one is a card, a closed one is a line like that of a tool.

import { type KeyboardEvent, memo, type RefObject, useId, useLayoutEffect, useRef, useState } from "react";
import type { ErrorBody, Question, Reply } from "../../../src/index.ts";
import { expiresIn, RequestError } from "../../../src/index.ts";
import { useNetra } from "../../../src/react/index.ts";
import { AlertIcon, CheckIcon, ChevronIcon, CrossIcon, QuestionIcon, ShieldIcon } from "../../shared/icons.tsx";
import { explain } from "../../shared/errorText.ts";
import { QuestionForm } from "./QuestionForm.tsx";
import { pretty } from "../../shared/text.ts";
import { useNow } from "../../shared/useNow.ts";
import { outcomeText, timeLeft } from "./words.ts";

interface Props {
  readonly question: Question;
  /** The id of the question whose card had the focus when it was closed; its line gets the focus. */
  readonly focused: RefObject<string | null>;
  /** Why the last answer from this page was not accepted. */
  readonly problem: ErrorBody | undefined;
}

interface OpenProps extends Props {
  readonly onProblem: (questionId: string, problem: ErrorBody | undefined) => void;
}

export const OpenQuestion = memo(function OpenQuestion({ question, focused, problem, onProblem }: OpenProps) {
  const { question_id, kind, prompt, schema } = question;
  const answer = useNetra((netra) => netra.answer);
  const isConnected = useNetra((netra) => netra.isConnected);
  const [isBusy, setBusy] = useState(false);
  const card = useRef<HTMLElement>(null);
  const id = useId();

  useLayoutEffect(() => {
    const element = card.current;
    return () => {
      if (element?.contains(document.activeElement)) focused.current = question_id;
    };
  }, [focused, question_id]);

  const reply = (body: Reply) => {
    if (isBusy) return;
    setBusy(true);
    onProblem(question_id, undefined);
    answer(question_id, body).catch((error: unknown) => {
      if (!(error instanceof RequestError)) throw error;
      onProblem(question_id, error.body);
      setBusy(false);
    });
  };
  // Elsewhere Escape stops the run, which would close the question and discard the typed text.
  const onKeyDown = (event: KeyboardEvent) => {
    if (event.key === "Escape") event.preventDefault();
  };
  return (
    <section ref={card} role="group" className="question" aria-labelledby={`${id}-title ${id}-prompt`} onKeyDown={onKeyDown}>
      <header>
        {kind === "approval" ? <ShieldIcon /> : <QuestionIcon />}
        <h2 id={`${id}-title`}>{kind === "approval" ? "Approval needed" : "Question"}</h2>
        <TimeLeft question={question} />
      </header>
      <p className="prompt" id={`${id}-prompt`} dir="auto">{prompt}</p>
      <Proposal question={question} />
      {kind === "approval" ? (
        <div className="buttons">
          <button type="button" className="primary" aria-disabled={isBusy} onClick={() => reply({ approve: true })}>
            Approve
          </button>
          <button type="button" className="secondary" aria-disabled={isBusy} onClick={() => reply({ approve: false })}>
            Deny
          </button>
        </div>
      ) : (
        <QuestionForm schema={schema} isBusy={isBusy} onAnswer={(value) => reply({ answer: value })} />
      )}
      {isBusy && <p className="note">{isConnected ? "Sending…" : "Waiting for the connection"}</p>}
      {problem && (
        <div className="problem" role="alert">
          <AlertIcon />
          <p>
            {explain(problem).text} <span className="help">{explain(problem).help}</span>
          </p>
        </div>
      )}
    </section>
  );
});

function TimeLeft({ question }: { question: Question }) {
  const clockOffset = useNetra((netra) => netra.clockOffset);
  const now = useNow(true);
  const at = new Date(question.expires_at * 1000 - clockOffset);
  return (
    <span className="note time-left">
      {/* Changes every second, so screen readers read the time of day instead. */}
      <span aria-hidden="true">{timeLeft(expiresIn(question, { clockOffset }, now))}</span>
      <span className="only-read">Expires at {at.toLocaleTimeString([], { timeStyle: "short" })}</span>
    </span>
  );
}

/** The tool that an approval is about. */
function Proposal({ question: { kind, tool_name, arguments: given } }: { question: Question }) {
  if (kind !== "approval" || tool_name === null) return null;
  return (
    <dl className="proposal">
      <dt>Tool</dt>
      <dd>
        <code>{tool_name}</code>
      </dd>
      {given !== null && (
        <>
          <dt>Arguments</dt>
          <dd>
            <pre tabIndex={0} aria-label="Arguments">{pretty(given)}</pre>
          </dd>
        </>
      )}
    </dl>
  );
}

export const ClosedQuestion = memo(function ClosedQuestion({ question, focused, problem }: Props) {
  const { question_id, kind, prompt, tool_name, answer, outcome } = question;
  const line = useRef<HTMLElement>(null);
  useLayoutEffect(() => {
    // If another element has the focus, the user may be typing there.
    const isFree = document.activeElement === document.body;
    if (isFree && focused.current === question_id) line.current?.focus();
  }, [focused, question_id]);
  const isGood = outcome === "approved" || outcome === "answered";
  return (
    <li>
      <details className={`tool ${isGood ? "succeeded" : "closed"}`}>
        <summary ref={line}>
          {kind === "approval" ? <ShieldIcon /> : <QuestionIcon />}
          <span className="summary" dir="auto">{tool_name === null ? prompt : <code>{tool_name}</code>}</span>
          <span className="tool-state">
            {isGood ? <CheckIcon /> : <CrossIcon />}
            {outcomeText(question)}
          </span>
          <ChevronIcon />
        </summary>
        <dl>
          <dt>{kind === "approval" ? "Approval" : "Question"}</dt>
          <dd className="prompt" dir="auto">{prompt}</dd>
        </dl>
        <Proposal question={question} />
        {answer !== undefined && (
          <dl>
            <dt>Answer</dt>
            <dd>
              <pre tabIndex={0} aria-label="Answer">{pretty(answer)}</pre>
            </dd>
          </dl>
        )}
      </details>
      {problem && (
        <p className="note" role="alert">
          Your answer was not accepted. {explain(problem).text}
        </p>
      )}
    </li>
  );
});
