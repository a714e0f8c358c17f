// The sessions of all nodes with their runs and tools.

import { memo, useDeferredValue, useMemo, useState } from "react";
import type { Action } from "../actions/request.ts";
import { count } from "../format.ts";
import { treeOf } from "../live/tree.ts";
import type { NodePart } from "../live/types.ts";
import { SessionRow } from "./SessionRow.tsx";

interface Props {
  readonly parts: readonly NodePart[];
  readonly onAction: (action: Action) => void;
}

const SHOWN = 200; // sessions: of a node there are as many in its part

export const Tree = memo(function Tree({ parts, onAction }: Props) {
  const [text, setText] = useState("");
  const [idle, setIdle] = useState(false);
  const filter = useDeferredValue(text);
  const tree = useMemo(() => treeOf(parts, { text: filter, idle }), [parts, filter, idle]);
  const shown = tree.slice(0, SHOWN);
  const isCut = parts.some(({ truncated }) => truncated);
  const total = parts.reduce((sum, { totals }) => sum + totals.sessions, 0);
  return (
    <section aria-label="Sessions">
      <header className="section-top">
        <h2>Sessions</h2>
        <input
          type="search"
          aria-label="Filter sessions"
          placeholder="User, id, agent, tool…"
          value={text}
          onChange={(event) => setText(event.target.value)}
        />
        <label className="check">
          <input type="checkbox" checked={idle} onChange={(event) => setIdle(event.target.checked)} />
          Without runs too
        </label>
      </header>
      {shown.length === 0 ? (
        <p className="note empty">{emptyText(filter, idle, total)}</p>
      ) : (
        <ul className="tree">
          {shown.map(({ node, session, runs }) => (
            <SessionRow
              key={`${node} ${session?.session_id ?? runs[0]?.run_id ?? ""}`}
              node={node}
              session={session}
              runs={runs}
              onAction={onAction}
            />
          ))}
        </ul>
      )}
      {(tree.length > shown.length || isCut) && (
        <p className="note">
          {`${count(shown.length)} of ${count(total)} sessions are listed: those whose runs wait longest, and the oldest.`}
        </p>
      )}
    </section>
  );
});

function emptyText(filter: string, idle: boolean, total: number): string {
  if (filter.trim()) return "No session matches.";
  if (idle || total === 0) return "There are no sessions.";
  return total === 1 ? "One session, and no run." : `${count(total)} sessions, and no run.`;
}
