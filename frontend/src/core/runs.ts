/** Runs assembled from their events, and from the runs that a resume reports. */

import type { EventMessage, EventPayloads, HistoryMessage, HistoryStep, ListedFile, ResumedRun } from "../protocol/messages.js";
import { attachedFiles } from "./attachments.js";
import {
  beforeText,
  filePlaces,
  mergedPlaces,
  partsAt,
  placesOf,
  placesOfSteps,
  withQuestionParts,
  withStep,
} from "./parts.js";
import { closedExcept, UNKNOWN, withAnswered, withAsked, withHistory, withResumed } from "./questions.js";
import { isEnd, type Run, type Thought, type ToolCall, type Usage } from "./snapshot.js";

export const NEW_RUN: Run = {
  run_id: "",
  correlation_id: null,
  thread_id: null,
  agent_name: null,
  status: "queued",
  position: null,
  attempt: 0,
  text: "",
  truncated: false,
  parts: [],
  thoughts: [],
  tools: [],
  questions: [],
  usage: [],
  result: undefined,
  error: null,
  duration_ms: null,
  abandoned: false,
  attachments: [],
};

/** The run after one of its events; the same object if the event changes nothing. */
export function afterEvent(before: Run | undefined, event: EventMessage): Run {
  const run = before ?? {
    ...NEW_RUN,
    run_id: event.payload.run_id,
    correlation_id: event.correlation_id ?? null,
  };
  // After its end a run receives only copies of that end.
  if (isEnd(run.status) && event.type !== "message_confirmed") return run;
  switch (event.type) {
    case "message_confirmed": {
      const { thread_id, status, position, run_status } = event.payload;
      if (before !== undefined && status === "duplicate") return run;
      const confirmed = status === "accepted" ? "running" : "queued";
      return {
        ...run,
        thread_id,
        status: isEnd(run.status) ? run.status : (run_status ?? confirmed),
        position: position ?? null,
      };
    }
    case "agent_started": {
      const { agent_name, thread_id, attempt } = event.payload;
      return { ...run, agent_name, thread_id, attempt, status: "running", position: null };
    }
    case "agent_thinking": {
      const { run_id: _, ...thought } = event.payload;
      const parts = withStep(run.parts, { type: "thought", index: run.thoughts.length }, run.text.length);
      return { ...run, thoughts: [...run.thoughts, thought], parts };
    }
    case "partial_result":
      return withText(run, event.payload.content);
    case "tool_executing":
      return withTool(run, startedTool(event.payload));
    case "tool_completed":
      return withTool(run, endedTool(run.tools, event.payload));
    case "agent_asking":
      return withQuestionParts({ ...run, questions: withAsked(run.questions, run.run_id, event.payload) });
    case "agent_answered":
      return { ...run, questions: withAnswered(run.questions, event.payload) };
    case "binary_result":
      return withFile(run, event.payload);
    case "agent_usage":
      return { ...run, usage: withUsage(run.usage, event.payload) };
    case "agent_completed": {
      const { status, result, error, duration_ms, truncated, abandoned = false } = event.payload;
      return {
        // An agent may return its answer without streaming it.
        ...(run.text === "" && typeof result === "string" ? withText(run, result) : run),
        status,
        position: null,
        result,
        error: error ?? null,
        duration_ms,
        abandoned,
        attachments: withFiles(attachedFiles(event.payload, event.payload.files), run.attachments),
        truncated: run.truncated || (run.text === "" && truncated === true),
        tools: cutOff(run.tools),
        questions: closedExcept(run.questions, [], "cancelled"),
      };
    }
  }
}

/**
 * The run as a resume reports it: the server's text and steps replace the client's.
 *
 * @param isComplete Whether the client has every event that the server's text covers. Then its own
 *   text is kept if the server's lacks its beginning, and the outcomes of questions closed meanwhile arrive as events.
 */
export function afterResume(before: Run | undefined, resumed: ResumedRun, isComplete: boolean): Run {
  const { questions: open = [], steps = [] } = resumed;
  const known = before ?? NEW_RUN;
  const questions = withResumed(known.questions, resumed.run_id, open);
  const keepsText = before !== undefined && isComplete && resumed.truncated === true;
  const text = keepsText ? known.text : resumed.content;
  const hasAll = keepsText || (isComplete && text === known.text);
  return withQuestionParts({
    ...(hasAll ? known : withSteps(known, steps, text)),
    run_id: resumed.run_id,
    thread_id: resumed.thread_id,
    correlation_id: resumed.correlation_id,
    // The end follows as an event, with its result.
    status: isEnd(resumed.status) ? (before?.status ?? "running") : resumed.status,
    text,
    truncated: keepsText ? known.truncated : resumed.truncated === true,
    questions: isComplete ? questions : closedExcept(questions, open, UNKNOWN),
  });
}

/**
 * Returns the run with what a page of the history adds: its end, if that was missed, and its questions.
 * Undefined for an unknown run without an open question: its messages in the page are enough.
 *
 * @param keepsText Whether to keep the received text, because the page does not have it.
 */
export function afterHistory(
  before: Run | undefined,
  message: WithRun,
  thread_id: string,
  keepsText: boolean,
): Run | undefined {
  const { run_id, agent_name, status, questions: listed = [] } = message.run;
  const isAsking = !isEnd(status) && listed.some(({ outcome }) => outcome === undefined);
  const asking = isAsking
    ? { ...NEW_RUN, run_id, agent_name, thread_id, correlation_id: message.correlation_id ?? null, status }
    : undefined;
  const known = before ?? asking;
  if (known === undefined) return undefined;
  // A resume does not name the agent.
  const run = known.agent_name === null ? { ...known, agent_name } : known;
  const isMissedEnd = isEnd(status) && !isEnd(run.status);
  if (listed.length === 0 && !isMissedEnd) return run;
  const questions = withHistory(run.questions, run_id, listed);
  if (!isMissedEnd) return withQuestionParts({ ...run, questions });
  const text = keepsText ? run.text : "";
  return withQuestionParts({
    ...run,
    status,
    text,
    parts: keepsText ? run.parts : partsAt(placesOf(run.parts), text.length),
    position: null,
    tools: cutOff(run.tools),
    questions: closedExcept(questions, [], "cancelled"),
  });
}

type WithRun = HistoryMessage & { readonly run: NonNullable<HistoryMessage["run"]> };

/**
 * An ended run, from its answer in the history, with its steps and duration.
 *
 * @param question The message that it answers, which lists the questions of the run; undefined if it is on another page.
 * @param seen The run as this client has received it.
 */
export function runFromHistory(
  answer: WithRun,
  question: HistoryMessage | undefined,
  thread_id: string,
  seen?: Run,
): Run {
  const { run_id, agent_name, status, duration_ms = question?.run?.duration_ms ?? null } = answer.run;
  const { content: text, steps = [] } = answer;
  const { questions = [] } = question?.run ?? {};
  const run = withSteps({ ...NEW_RUN, run_id, parts: partsAt(filePlaces(seen), text.length) }, steps, text);
  return withQuestionParts({
    ...run,
    correlation_id: question?.correlation_id ?? null,
    thread_id,
    agent_name,
    status,
    attempt: 1,
    text,
    truncated: answer.truncated === true,
    tools: cutOff(run.tools),
    questions: closedExcept(withHistory([], run_id, questions), [], "cancelled"),
    duration_ms,
    attachments: attachedFiles(answer, answer.files),
  });
}

/** The run with reported steps at their places in a reported text. Steps that are known whole are kept. */
function withSteps(known: Run, steps: readonly HistoryStep[], text: string): Run {
  const thoughts = steps.flatMap(thoughtOf);
  const tools = steps.flatMap(toolOf).reduce((all, tool) => {
    const before = all.find(({ tool_call_id }) => tool_call_id === tool.tool_call_id);
    return before === undefined || before.status === "running" ? withToolIn(all, tool) : all;
  }, known.tools);
  const places = mergedPlaces(placesOfSteps(steps, text), placesOf(known.parts));
  return {
    ...known,
    thoughts: [...known.thoughts, ...thoughts.slice(known.thoughts.length)],
    tools,
    parts: partsAt(places, text.length),
  };
}

function withText(run: Run, added: string): Run {
  if (added === "") return run;
  return { ...run, text: run.text + added, parts: beforeText(run.parts, run.text.length) };
}

function withFile(run: Run, { file_id, media_type, bytes }: EventPayloads["binary_result"]): Run {
  return {
    ...run,
    attachments: withFiles(run.attachments, [{ file_id, name: "", media_type, bytes }]),
    parts: withStep(run.parts, { type: "file", file_id }, run.text.length),
  };
}

/** Files, with those of other ones that are not among them. */
const withFiles = (files: readonly ListedFile[], others: readonly ListedFile[]): readonly ListedFile[] => [
  ...files,
  ...others.filter(({ file_id }) => !files.some((file) => file.file_id === file_id)),
];

const cutOff = (tools: readonly ToolCall[]): readonly ToolCall[] =>
  tools.map((tool) => (tool.status === "running" ? { ...tool, status: "cut" } : tool));

function thoughtOf({ type, thought, step_number, total_steps }: HistoryStep): Thought[] {
  if (type !== "thought" || thought === undefined) return [];
  return [
    {
      thought,
      ...(step_number === undefined ? {} : { step_number }),
      ...(total_steps === undefined ? {} : { total_steps }),
    },
  ];
}

function toolOf(step: HistoryStep): ToolCall[] {
  const { type, at: _, success, tool_call_id, tool_name, arguments: given = null, ...rest } = step;
  if (type !== "tool" || tool_call_id === undefined || tool_name === undefined) return [];
  const { result, error, duration_ms, truncated } = rest;
  return [
    {
      tool_call_id,
      tool_name,
      arguments: given,
      status: success === undefined ? "running" : success ? "succeeded" : "failed",
      ...(result === undefined ? {} : { result }),
      ...(error === undefined ? {} : { error }),
      ...(duration_ms === undefined ? {} : { duration_ms }),
      ...(truncated === undefined ? {} : { truncated }),
    },
  ];
}

/** The sums for each model. */
function withUsage(usage: readonly Usage[], used: EventPayloads["agent_usage"]): readonly Usage[] {
  const { run_id: _, ...added } = used;
  const before = usage.find(({ model }) => model === added.model);
  if (before === undefined) return [...usage, added];
  const cost = before.cost === undefined && added.cost === undefined ? {} : { cost: (before.cost ?? 0) + (added.cost ?? 0) };
  const sum: Usage = {
    model: added.model,
    input_tokens: before.input_tokens + added.input_tokens,
    output_tokens: before.output_tokens + added.output_tokens,
    ...cost,
  };
  return usage.map((other) => (other === before ? sum : other));
}

type Started = Extract<EventMessage, { type: "tool_executing" }>["payload"];
type Ended = Extract<EventMessage, { type: "tool_completed" }>["payload"];

function startedTool({ run_id: _, ...tool }: Started): ToolCall {
  return { ...tool, status: "running" };
}

function endedTool(tools: readonly ToolCall[], ended: Ended): ToolCall {
  const { run_id: _, success, ...rest } = ended;
  const started = tools.find((tool) => tool.tool_call_id === ended.tool_call_id);
  return { arguments: null, ...started, ...rest, status: success ? "succeeded" : "failed" };
}

function withTool(run: Run, tool: ToolCall): Run {
  const parts = withStep(run.parts, { type: "tool", tool_call_id: tool.tool_call_id }, run.text.length);
  return { ...run, tools: withToolIn(run.tools, tool), parts };
}

function withToolIn(tools: readonly ToolCall[], tool: ToolCall): readonly ToolCall[] {
  const index = tools.findIndex((other) => other.tool_call_id === tool.tool_call_id);
  return index < 0 ? [...tools, tool] : tools.map((other, at) => (at === index ? tool : other));
}
