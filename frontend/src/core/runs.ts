/** Runs assembled from their events, and from the runs that a resume reports. */

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
      };
    }
  }
}

/**
 * The run as a resume reports it: the server's text replaces the client's.
 *
 * @param isComplete Whether the client has every event that the server's text covers. Then its own
 *   text is kept if the server's lacks its beginning.
 */
export function afterResume(before: Run | undefined, resumed: ResumedRun, isComplete: boolean): Run {
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
