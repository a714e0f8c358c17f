/** Runs put together from their events, and from what a resume says of them. */

import type { EventMessage, ResumedRun } from "../protocol/messages.js";
import { isEnd, type Run, type ToolCall } from "./snapshot.js";

const NEW_RUN: Run = {
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
  result: undefined,
  error: null,
  duration_ms: null,
  abandoned: false,
};

/** The run after an event of it; the same object where the event says nothing new. */
export function afterEvent(before: Run | undefined, event: EventMessage): Run {
  const run = before ?? {
    ...NEW_RUN,
    run_id: event.payload.run_id,
    correlation_id: event.correlation_id ?? null,
  };
  // Nothing follows an end but copies of it.
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
        // An agent may return its answer without having streamed it.
        text: run.text === "" && typeof result === "string" ? result : run.text,
        truncated: run.truncated || (run.text === "" && truncated === true),
        tools: run.tools.map((tool) =>
          tool.status === "running" ? { ...tool, status: "cut" } : tool,
        ),
      };
    }
  }
}

/**
 * The run as a resume tells of it: its text takes the place of this side's.
 *
 * @param isComplete Whether this side has every event up to the number the text reaches to. Then a
 *   text that was cut at its front is worse than its own.
 */
export function afterResume(before: Run | undefined, told: ResumedRun, isComplete: boolean): Run {
  const keepsText = before !== undefined && isComplete && told.truncated === true;
  return {
    ...(before ?? NEW_RUN),
    run_id: told.run_id,
    thread_id: told.thread_id,
    correlation_id: told.correlation_id,
    // The end itself follows as an event, with its result.
    status: isEnd(told.status) ? (before?.status ?? "running") : told.status,
    text: keepsText ? before.text : told.content,
    truncated: keepsText ? before.truncated : told.truncated === true,
  };
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
