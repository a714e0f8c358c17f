// The totals of all nodes.

import { memo } from "react";
import { amount, count } from "./format.ts";
import { lastMinute, sumOf } from "./live/series.ts";
import type { Live } from "./live/state.ts";
import type { NodePart } from "./live/types.ts";

interface Props {
  readonly parts: readonly NodePart[];
  readonly samples: Live["samples"];
}

export const Totals = memo(function Totals({ parts, samples }: Props) {
  const sum = (pick: (part: NodePart) => number) => parts.reduce((all, part) => all + pick(part), 0);
  const errors = lastMinute(samples, (sample) => sumOf(sample.errors));
  const waiting = sum(({ runs }) => runs.filter(({ waits_for }) => waits_for === "answer").length);
  return (
    <dl className="totals" aria-label="Totals">
      <Total name="Nodes" value={count(parts.length)} more={drainingText(parts)} />
      <Total name="Connections" value={count(sum((part) => part.capacity.connections))} />
      <Total
        name="Sessions"
        value={count(sum((part) => part.totals.sessions))}
        more={`${count(sum((part) => part.totals.detached))} detached`}
      />
      <Total
        name="Runs"
        value={count(sum((part) => part.totals.running))}
        more={`${count(sum((part) => part.totals.queued))} queued, ${count(waiting)} ask`}
      />
      <Total
        name="Messages a second"
        value={amount(sum((part) => part.now.received))}
        more={`${amount(sum((part) => part.now.sent))} sent`}
      />
      <Total name="Errors in a minute" value={count(errors)} isBad={errors > 0} />
    </dl>
  );
});

interface TotalProps {
  readonly name: string;
  readonly value: string;
  readonly more?: string;
  readonly isBad?: boolean;
}

function Total({ name, value, more = "", isBad = false }: TotalProps) {
  return (
    <div className={isBad ? "total bad" : "total"}>
      <dt>{name}</dt>
      <dd>
        <span className="value">{value}</span>
        {more && <span className="note">{more}</span>}
      </dd>
    </div>
  );
}

function drainingText(parts: readonly NodePart[]): string {
  const draining = parts.filter((part) => part.draining).length;
  return draining === 0 ? "" : `${count(draining)} draining`;
}
