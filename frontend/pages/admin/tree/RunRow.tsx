// One run: its age and deadline, what it waits for, and its tool calls.

import { StopIcon } from "../../shared/icons.tsx";
import type { Action } from "../actions/request.ts";
import { age, count } from "../format.ts";
import type { RunPart, Waits } from "../live/types.ts";

const WAITS: Record<Waits, string> = {
  model: "waits for the model",
  tool: "waits for a tool",
  client: "waits for the client",
  store: "waits for the database",
  answer: "waits for an answer of the user",
  queue: "queued",
  retry: "pauses before its next attempt",
};

interface Props {
  readonly run: RunPart;
  readonly onAction: (action: Action) => void;
}

export function RunRow({ run, onAction }: Props) {
  const { run_id, agent, user_id, tools, tools_total } = run;
  return (
    <li>
      <div className="row">
        <span className="agent" dir="auto">{agent}</span>
        <span className={`badge waits-${run.waits_for ?? "none"}`}>{waitsText(run)}</span>
        <span className="note">{timesText(run)}</span>
        <code className="note where" title={`Run ${run_id} in thread ${run.thread_id}`}>{run_id}</code>
        <span className="row-actions">
          <button
            type="button"
            className="quiet"
            aria-label={`Stop the run ${run_id}`}
            onClick={() => onAction({ kind: "stop", target: run_id, about: `of ${user_id}, agent ${agent}` })}
          >
            <StopIcon />
            Stop
          </button>
        </span>
      </div>
      {tools.length > 0 && (
        <ul className="tool-calls" aria-label="Running tools">
          {tools.map(({ tool_call_id, name, age: since }) => (
            <li key={tool_call_id}>
              <code>{name}</code> <span className="note">{age(since)}</span>
            </li>
          ))}
          {tools_total > tools.length && <li className="note">{`and ${count(tools_total - tools.length)} more`}</li>}
        </ul>
      )}
    </li>
  );
}

function waitsText({ waits_for, waits, status }: RunPart): string {
  if (waits_for === null) return status;
  const since = waits === null ? "" : `, ${age(waits)}`;
  // A later version of the server may have other kinds.
  return `${(WAITS as Partial<Record<string, string>>)[waits_for] ?? waits_for}${since}`;
}

function timesText({ age: old, deadline, attempt, unattended }: RunPart): string {
  const texts = [
    `${age(old)} old`,
    deadline === null ? "" : `${age(deadline)} left`,
    attempt > 1 ? `attempt ${attempt}` : "",
    unattended ? "outlives its session" : "",
  ];
  return texts.filter(Boolean).join(" · ");
}
