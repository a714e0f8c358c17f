// The thoughts of a run: the last one while it runs, all of them on request.

import type { Run } from "../../../src/index.ts";
import { ChevronIcon, ThoughtIcon } from "../../shared/icons.tsx";

export function Thoughts({ run, isLive }: { run: Run; isLive: boolean }) {
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
