// One session with its runs.

import { BlockIcon, CloseIcon } from "../../shared/icons.tsx";
import type { Action } from "../actions/request.ts";
import { age, bytes, count } from "../format.ts";
import type { RunPart, SessionPart } from "../live/types.ts";
import { RunRow } from "./RunRow.tsx";

interface Props {
  readonly node: string;
  /** Null for runs that have left their session. */
  readonly session: SessionPart | null;
  readonly runs: readonly RunPart[];
  readonly onAction: (action: Action) => void;
}

export function SessionRow({ node, session, runs, onAction }: Props) {
  const user = session?.user_id ?? runs[0]?.user_id ?? "";
  return (
    <li className="session">
      <div className="row">
        <span className="user" dir="auto" title={user}>{user}</span>
        {session === null ? (
          <span className="note">{runs[0]?.session_id == null ? "without a session" : "session not listed"}</span>
        ) : (
          <SessionState session={session} />
        )}
        <code className="note where" title={`Session ${session?.session_id ?? ""} at node ${node}`}>
          {session?.session_id ?? ""} {node}
        </code>
        <span className="row-actions">
          {session && (
            <button
              type="button"
              className="quiet"
              aria-label={`End the session ${session.session_id}`}
              onClick={() => onAction({ kind: "end", target: session.session_id, about: `of ${user}` })}
            >
              <CloseIcon />
              End
            </button>
          )}
          <button
            type="button"
            className="quiet"
            aria-label={`Disable the user ${user}`}
            onClick={() => onAction({ kind: "disable", target: user, about: "" })}
          >
            <BlockIcon />
            Disable
          </button>
        </span>
      </div>
      {runs.length > 0 && (
        <ul className="runs">
          {runs.map((run) => (
            <RunRow key={run.run_id} run={run} onAction={onAction} />
          ))}
        </ul>
      )}
    </li>
  );
}

function SessionState({ session }: { session: SessionPart }) {
  const { attached, window, unsent, inbox, log_events, log_bytes, acknowledging } = session;
  const state = attached ? "attached" : `detached, ends in ${age(window ?? 0)}`;
  const kind = acknowledging ? "acknowledging" : "plain";
  const waiting = [
    inbox > 0 ? `${count(inbox)} in the inbox` : "",
    unsent > 0 ? `${count(unsent)} unsent` : "",
  ].filter(Boolean);
  return (
    <>
      <span className={attached ? "badge good" : "badge"}>{state}</span>
      <span className="note" title={`Event log: ${count(log_events)} events, ${bytes(log_bytes)}`}>
        {[`${age(session.age)} old`, kind, ...waiting].join(" · ")}
      </span>
    </>
  );
}
