// The nodes: their capacity, their state, and that of the broker and the stores.

import { memo } from "react";
import { DrainIcon } from "../shared/icons.tsx";
import type { Action } from "./actions/request.ts";
import { age, bytes, count, orNone, time } from "./format.ts";
import type { DependencyState, NodePart } from "./live/types.ts";

interface Props {
  readonly parts: readonly NodePart[];
  readonly onAction: (action: Action) => void;
}

export const Nodes = memo(function Nodes({ parts, onAction }: Props) {
  return (
    <section aria-label="Nodes">
      <h2>Nodes</h2>
      <div className="scrolls" role="region" aria-label="Table of nodes" tabIndex={0}>
        <table>
          <thead>
            <tr>
              <th scope="col">Node</th>
              <th scope="col">Up</th>
              <th scope="col">Connections</th>
              <th scope="col">Runs</th>
              <th scope="col">Loop delay</th>
              <th scope="col">Memory</th>
              <th scope="col">Broker</th>
              <th scope="col">Store</th>
              <th scope="col">
                <span className="only-read">Actions</span>
              </th>
            </tr>
          </thead>
          <tbody>
            {parts.map((part) => (
              <NodeRow key={part.node} part={part} onAction={onAction} />
            ))}
          </tbody>
        </table>
      </div>
    </section>
  );
});

function NodeRow({ part, onAction }: { part: NodePart; onAction: Props["onAction"] }) {
  const { node, version, pid, capacity, totals, broker, draining } = part;
  const about = `(version ${version}, process ${pid})`;
  return (
    <tr>
      <th scope="row">
        <code title={about}>{node}</code>
        {draining && <span className="badge warns">draining</span>}
      </th>
      <td title={`version ${version}`}>{age(part.uptime)}</td>
      <td>
        <span className="amount">
          <meter
            min={0}
            max={Math.max(capacity.connections_max, 1)}
            high={capacity.connections_max * 0.9}
            value={capacity.connections}
            aria-hidden="true"
          />
          {count(capacity.connections)} of {count(capacity.connections_max)}
        </span>
      </td>
      <td>
        {count(totals.running)} <span className="note">+ {count(totals.queued)} queued</span>
      </td>
      <td>{time(part.loop_lag)}</td>
      <td>{part.memory === 0 ? "–" : bytes(part.memory)}</td>
      <td>
        {broker === null ? (
          <span className="note">none</span>
        ) : (
          <>
            <State state={broker.state} /> <span className="note">{orNone(broker.lag, time)}</span>
          </>
        )}
      </td>
      <td>
        <State state={part.store.state} />
      </td>
      <td className="align-right">
        <button
          type="button"
          className="quiet"
          disabled={draining}
          aria-label={`Drain ${node}`}
          onClick={() => onAction({ kind: "drain", target: node, about })}
        >
          <DrainIcon />
          Drain
        </button>
      </td>
    </tr>
  );
}

function State({ state }: { state: DependencyState }) {
  return <span className={state === "ok" ? "badge good" : "badge warns"}>{state}</span>;
}
