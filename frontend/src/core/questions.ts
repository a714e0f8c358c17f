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

/** The reply of the user: the payload of an `answer` without the question's id. */
export type Reply = Omit<ClientPayloads["answer"], "question_id">;

type Questions = readonly Question[];

/** The outcome of a question that was closed while the client could not see it. */
export const UNKNOWN = "unknown";

/** Adds a question unless it is known already: a replayed event never reopens a closed one. */
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

/** Adds the open questions of a resume. One that is listed without its texts comes with the history. */
export function withResumed(questions: Questions, run_id: string, open: readonly ResumedQuestion[]): Questions {
  const isComplete = (one: ResumedQuestion): one is ResumedQuestion & AskedQuestion => one.prompt !== undefined;
  return open.filter(isComplete).reduce((all, asked) => withAsked(all, run_id, asked), questions);
}

/** Adds the questions of a run in the history, and their outcomes. A known outcome is kept. */
export function withHistory(questions: Questions, run_id: string, listed: readonly HistoryQuestion[]): Questions {
  const all = inOrder(listed.reduce((known, asked) => withAsked(known, run_id, asked), questions), listed);
  return listed.reduce((known, { question_id, outcome, ...rest }) => {
    const before = known.find((one) => one.question_id === question_id)?.outcome ?? UNKNOWN;
    return outcome === undefined || before !== UNKNOWN
      ? known
      : withAnswered(known, { ...rest, run_id, question_id, outcome });
  }, all);
}

/** The questions as they were asked: a resume lists open ones alone, before the history lists all. */
function inOrder(questions: Questions, listed: readonly HistoryQuestion[]): Questions {
  const places = new Map(listed.map(({ question_id }, index) => [question_id, index]));
  const place = ({ question_id }: Question): number => places.get(question_id) ?? places.size;
  const isSorted = questions.every((one, index) => index === 0 || place(questions[index - 1] ?? one) <= place(one));
  return isSorted ? questions : [...questions].sort((a, b) => place(a) - place(b));
}

export function withAnswered(questions: Questions, answered: EventPayloads["agent_answered"]): Questions {
  const { question_id, outcome, answer, user_id = null } = answered;
  return questions.map((question) =>
    question.question_id === question_id ? { ...question, outcome, answer, user_id } : question,
  );
}

/** Closes the questions that are open here and missing in the server's list of open ones. */
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
 * Whether a closed question has the outcome that a reply asked for. An outcome that this version does
 * not know cannot be compared, and counts as such.
 */
export function isOutcomeFor({ outcome, answer }: Pick<Question, "outcome" | "answer">, reply: Reply): boolean {
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

/** Whether a question is closed, by the events so far and the runs of a resume. */
export function isClosed(question: Question | undefined, resumed: readonly ResumedRun[]): boolean {
  if (question === undefined) return false;
  if (!isOpen(question)) return true;
  const { question_id, run_id } = question;
  const run = resumed.find((one) => one.run_id === run_id);
  return run !== undefined && !isAmong(run.questions, question_id);
}

const isAmong = (open: readonly ResumedQuestion[] | undefined, questionId: string): boolean =>
  open?.some(({ question_id }) => question_id === questionId) === true;
