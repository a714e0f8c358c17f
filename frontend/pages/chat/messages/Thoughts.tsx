// Neighbouring thoughts: the last one while the run goes on there, all of them on request.

import { memo } from "react";
import type { Thought } from "../../../src/index.ts";
import { ChevronIcon, ThoughtIcon } from "../../shared/icons.tsx";

interface ThoughtsProps {
  readonly thoughts: readonly Thought[];
  /** The run goes on here. */
  readonly isLast: boolean;
}

export const Thoughts = memo(function Thoughts({ thoughts, isLast }: ThoughtsProps) {
  const last = thoughts.at(-1);
  if (!last) return null;
  const count = thoughts.length;
  const steps = last.total_steps ? `${last.step_number ?? count} of ${last.total_steps}` : "";
  return (
    <details className="thoughts">
      <summary>
        <ThoughtIcon />
        <span className={isLast ? "summary shimmers" : "summary"} dir="auto">
          {isLast ? last.thought : `${count} ${count === 1 ? "thought" : "thoughts"}`}
        </span>
        {isLast && steps && <span className="note">{steps}</span>}
        <ChevronIcon />
      </summary>
      <ol>
        {thoughts.map((thought, index) => (
          <li key={index} dir="auto">{thought.thought}</li>
        ))}
      </ol>
    </details>
  );
});
