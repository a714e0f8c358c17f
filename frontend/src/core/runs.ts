/** Runs assembled from their events, and from the runs that a resume reports. */

import type { EventMessage, EventPayloads, HistoryMessage, HistoryStep, ResumedRun } from "../protocol/messages.js";
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
  thoughts: [],
  tools: [],
  questions: [],
  usage: [],
  result: undefined,
  error: null,
  duration_ms: null,
  abandoned: false,
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
      return { ...run, thoughts: [...run.thoughts, thought] };
    }
    case "partial_result":
      return { ...run, text: run.text + event.payload.content };
    case "tool_executing":
      return { ...run, tools: withTool(run.tools, startedTool(event.payload)) };
    case "tool_completed":
      return { ...run, tools: withTool(run.tools, endedTool(run.tools, event.payload)) };
    case "agent_asking":
      return { ...run, questions: withAsked(run.questions, run.run_id, event.payload) };
    case "agent_answered":
      return { ...run, questions: withAnswered(run.questions, event.payload) };
    case "agent_usage":
      return { ...run, usage: withUsage(run.usage, event.payload) };
    case "agent_completed": {
      const { status, result, error, duration_ms, truncated, abandoned = false } = event.payload;
      return {
        ...run,
        status,
        position: null,
        result,
        error: error ?? null,
        duration_ms,
        abandoned,
        // An agent may return its answer without streaming it.
        text: run.text === "" && typeof result === "string" ? result : run.text,
        truncated: run.truncated || (run.text === "" && truncated === true),
        tools: run.tools.map((tool) =>
          tool.status === "running" ? { ...tool, status: "cut" } : tool,
        ),
        questions: closedExcept(run.questions, [], "cancelled"),
      };
    }
  }
}

/**
 * The run as a resume reports it: the server's text replaces the client's.
 *
 * @param isComplete Whether the client has every event that the server's text covers. Then its own
 *   text is kept if the server's lacks its beginning, and the outcomes of questions closed meanwhile arrive as events.
 */
export function afterResume(before: Run | undefined, resumed: ResumedRun, isComplete: boolean): Run {
  const { questions: open = [] } = resumed;
  const questions = withResumed((before ?? NEW_RUN).questions, resumed.run_id, open);
  const keepsText = before !== undefined && isComplete && resumed.truncated === true;
  return {
    ...(before ?? NEW_RUN),
    run_id: resumed.run_id,
    thread_id: resumed.thread_id,
    correlation_id: resumed.correlation_id,
    // The end follows as an event, with its result.
    status: isEnd(resumed.status) ? (before?.status ?? "running") : resumed.status,
    text: keepsText ? before.text : resumed.content,
    truncated: keepsText ? before.truncated : resumed.truncated === true,
    questions: isComplete ? questions : closedExcept(questions, open, UNKNOWN),
  };
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
  const run = before ?? asking;
  if (run === undefined) return undefined;
  const isMissedEnd = isEnd(status) && !isEnd(run.status);
  if (listed.length === 0 && !isMissedEnd) return run;
  const questions = withHistory(run.questions, run_id, listed);
  if (!isMissedEnd) return { ...run, questions };
  const text = keepsText ? run.text : "";
  return { ...run, status, text, position: null, questions: closedExcept(questions, [], "cancelled") };
}

type WithRun = HistoryMessage & { readonly run: NonNullable<HistoryMessage["run"]> };

/** An ended run, from its question and its answer in the history, with its steps and duration. */
export function runFromHistory(question: WithRun, answer: HistoryMessage, thread_id: string): Run {
  const { run_id, agent_name, status, questions = [], duration_ms = answer.run?.duration_ms ?? null } = question.run;
  const steps = answer.steps ?? [];
  return {
    ...NEW_RUN,
    run_id,
    correlation_id: question.correlation_id ?? null,
    thread_id,
    agent_name,
    status,
    attempt: 1,
    text: answer.content,
    truncated: answer.truncated === true,
    thoughts: steps.flatMap(thoughtOf),
    tools: steps.flatMap(toolOf),
    questions: closedExcept(withHistory([], run_id, questions), [], "cancelled"),
    duration_ms,
  };
}

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
      status: success === undefined ? "cut" : success ? "succeeded" : "failed",
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

function withTool(tools: readonly ToolCall[], tool: ToolCall): ToolCall[] {
  const index = tools.findIndex((other) => other.tool_call_id === tool.tool_call_id);
  return index < 0 ? [...tools, tool] : tools.map((other, at) => (at === index ? tool : other));
}
