/** The questions of a run: open until they are answered, expire, or end with their run. */

import type {
  AskedQuestion,
  ClientPayloads,
  EventPayloads,
  HistoryQuestion,
  JsonValue,
  QuestionOutcome,
  ResumedQuestion,
  ResumedRun,
} from "../protocol/messages.js";
import { isOpen, type Question } from "./snapshot.js";

/** The part of an `answer` that is the user's. */
export type Reply = Omit<ClientPayloads["answer"], "question_id">;

type Questions = readonly Question[];

/** The outcome of a question that was closed while the client could not see it. */
export const UNKNOWN = "unknown";

/** A question that is known already is not asked again: a replay never reopens it. */
export function withAsked(questions: Questions, run_id: string, asked: AskedQuestion): Questions {
  if (questions.some(({ question_id }) => question_id === asked.question_id)) return questions;
  const { question_id, kind, prompt, schema = null, tool_name = null, expires_at } = asked;
  const question: Question = {
    question_id,
    run_id,
    kind,
    prompt,
    schema,
    tool_name,
    arguments: asked.arguments ?? null,
    expires_at,
    outcome: null,
    answer: undefined,
    user_id: null,
  };
  return [...questions, question];
}

/** Those of a resume that are open. The history has the texts of those that are listed without. */
export function withResumed(questions: Questions, run_id: string, open: readonly ResumedQuestion[]): Questions {
  const isComplete = (one: ResumedQuestion): one is ResumedQuestion & AskedQuestion => one.prompt !== undefined;
  return open.filter(isComplete).reduce((all, asked) => withAsked(all, run_id, asked), questions);
}

/** All questions of a run, as the history has them. What is closed already stays closed. */
export function withHistory(questions: Questions, run_id: string, listed: readonly HistoryQuestion[]): Questions {
  const all = listed.reduce((known, asked) => withAsked(known, run_id, asked), questions);
  return listed.reduce((known, { question_id, outcome, ...rest }) => {
    const before = known.find((one) => one.question_id === question_id)?.outcome ?? UNKNOWN;
    return outcome === undefined || before !== UNKNOWN
      ? known
      : withAnswered(known, { ...rest, run_id, question_id, outcome });
  }, all);
}

export function withAnswered(questions: Questions, answered: EventPayloads["agent_answered"]): Questions {
  const { question_id, outcome, answer, user_id = null } = answered;
  return questions.map((question) =>
    question.question_id === question_id ? { ...question, outcome, answer, user_id } : question,
  );
}

/** Closes the open questions that a list does not have. */
export function closedExcept(
  questions: Questions,
  open: readonly ResumedQuestion[],
  outcome: string,
): Questions {
  const ids = new Set(open.map(({ question_id }) => question_id));
  const isLeftOut = (question: Question): boolean => isOpen(question) && !ids.has(question.question_id);
  if (!questions.some(isLeftOut)) return questions;
  return questions.map((question) => (isLeftOut(question) ? { ...question, outcome } : question));
}

/**
 * Whether a closed question has the outcome that a reply asked for. What a newer server calls an
 * outcome cannot be compared, and counts as that.
 */
export function isTaken({ outcome, answer }: Pick<Question, "outcome" | "answer">, reply: Reply): boolean {
  switch (outcome) {
    case "approved":
      return reply.approve === true;
    case "denied":
      return reply.approve === false;
    case "answered":
      return answer === undefined || isSame(answer, reply.answer);
    case "expired":
    case "cancelled":
      return false;
    default:
      return outcome !== null;
  }
}

/** Whether two JSON values are equal; the order of an object's fields does not matter. */
function isSame(a: JsonValue, b: JsonValue | undefined): boolean {
  if (a === b) return true;
  if (typeof a !== "object" || typeof b !== "object" || a === null || b === null) return false;
  if (Array.isArray(a) !== Array.isArray(b)) return false;
  const [left, right] = [Object.entries(a), new Map(Object.entries(b))];
  return left.length === right.size && left.every(([name, value]) => isSame(value, right.get(name)));
}

/** The outcome that a reply asks for. */
export const outcomeOf = ({ approve }: Reply): QuestionOutcome =>
  approve === undefined ? "answered" : approve ? "approved" : "denied";

/** Whether a question is closed, as far as the events so far and a resume say. */
export function isClosed(question: Question | undefined, resumed: readonly ResumedRun[]): boolean {
  if (question === undefined) return false;
  if (!isOpen(question)) return true;
  const { question_id, run_id } = question;
  const run = resumed.find((one) => one.run_id === run_id);
  return run !== undefined && !isAmong(run.questions, question_id);
}

export const isAmong = (open: readonly ResumedQuestion[] | undefined, questionId: string): boolean =>
  open?.some(({ question_id }) => question_id === questionId) === true;
