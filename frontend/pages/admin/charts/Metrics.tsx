// The metrics of the last hour over all nodes, under the headings of the guide.

import { memo, type ReactNode, useMemo } from "react";
import { amount, bytes, count, percent, time } from "../format.ts";
import { countsOf, largest, type Series, shares, stepsOf, type Steps, sumOf, sums } from "../live/series.ts";
import { type Live, newestOf, STEP } from "../live/state.ts";
import type { NodePart, Sample } from "../live/types.ts";
import { Bars } from "./Bars.tsx";
import { Chart, type Line } from "./Chart.tsx";

const PER_MINUTE = 60 / STEP; // samples

interface Props {
  readonly samples: Live["samples"];
  readonly parts: readonly NodePart[];
}

export const Metrics = memo(function Metrics({ samples, parts }: Props) {
  const steps = useMemo(() => stepsOf(samples, newestOf(samples)), [samples]);
  const all = useMemo(() => chartsOf(steps), [steps]);
  const perUser = useMemo(() => perUserOf(parts), [parts]);
  return (
    <>
      <Group title="Connection metrics">
        {all.connection}
        <Bars title="Users by connections" rows={perUser} empty="No user is connected." />
      </Group>
      <Group title="Message metrics">
        {all.message}
        <Bars title="Errors by code" rows={all.errors} empty="No errors in the last hour." />
        <Bars title="Rate limiting events" rows={all.limits} empty="None in the last hour." />
      </Group>
      <Group title="Health indicators">{all.health}</Group>
      <Group title="Capacity">{all.capacity}</Group>
    </>
  );
});

function Group({ title, children }: { title: string; children: ReactNode }) {
  return (
    <section className="metrics" aria-label={title}>
      <h2>{title}</h2>
      <div className="charts">{children}</div>
    </section>
  );
}

const one = (series: Series): Line[] => [{ name: "", series }];
const perMinute = (series: Series): Series => series.map((value) => (value === null ? null : value * PER_MINUTE));

function chartsOf(steps: Steps) {
  const line = (name: string, pick: (sample: Sample) => number | null, over: typeof sums = sums): Line => ({
    name,
    series: over(steps, pick),
  });
  return {
    connection: (
      <>
        <Chart title="Active connections" lines={one(sums(steps, (sample) => sample.connections))} format={count} />
        <Chart
          title="Sessions"
          lines={[line("attached", (sample) => sample.attached), line("detached", (sample) => sample.detached)]}
          format={count}
        />
        <Chart
          title="Connection duration, mean"
          lines={one(largest(steps, (sample) => sample.connection_seconds_mean))}
          format={time}
        />
        <Chart
          title="Reconnections a minute"
          lines={one(perMinute(sums(steps, (sample) => sample.reconnections)))}
          format={amount}
        />
      </>
    ),
    message: (
      <>
        <Chart
          title="Messages a second"
          lines={[line("received", (sample) => sample.received), line("sent", (sample) => sample.sent)]}
          format={amount}
        />
        <Chart
          title="Processing time"
          lines={[
            line("p50", (sample) => sample.processing_p50, largest),
            line("p95", (sample) => sample.processing_p95, largest),
            line("p99", (sample) => sample.processing_p99, largest),
          ]}
          format={time}
        />
        <Chart
          title="Time to the first text"
          lines={[
            line("p50", (sample) => sample.first_delta_p50, largest),
            line("p95", (sample) => sample.first_delta_p95, largest),
          ]}
          format={time}
        />
        <Chart
          title="Errors a minute"
          lines={one(perMinute(sums(steps, ({ errors }) => sumOf(errors))))}
          format={amount}
        />
      </>
    ),
    health: (
      <>
        <Chart
          title="Connection success rate"
          lines={one(shares(steps, ({ opened }) => opened, ({ refused }) => refused))}
          format={percent}
          top={1}
        />
        <Chart
          title="Reconnection time, mean"
          lines={one(largest(steps, (sample) => sample.reconnection_mean))}
          format={time}
        />
        <Chart
          title="Error recovery success rate"
          lines={one(shares(steps, ({ recovered }) => recovered, ({ unrecovered }) => unrecovered))}
          format={percent}
          top={1}
        />
        <Chart
          title="Service discovery latency, p95"
          lines={one(largest(steps, (sample) => sample.discovery_p95))}
          format={time}
        />
      </>
    ),
    capacity: (
      <>
        <Chart
          title="Runs"
          lines={[line("running", (sample) => sample.running), line("queued", (sample) => sample.queued)]}
          format={count}
        />
        <Chart title="Users with sessions" lines={one(sums(steps, (sample) => sample.users))} format={count} />
        <Chart title="Event loop delay" lines={one(largest(steps, (sample) => sample.loop_lag))} format={time} />
        <Chart title="Memory" lines={one(sums(steps, (sample) => sample.memory))} format={bytes} />
      </>
    ),
    errors: countsOf(steps, (sample) => sample.errors),
    limits: countsOf(steps, (sample) => sample.rate_limited),
  };
}

const BUCKETS = ["1", "2", "3", "4", "5", "6-10", "11+"];

/** The connected users by their number of connections, at all nodes. */
function perUserOf(parts: readonly NodePart[]): readonly (readonly [string, number])[] {
  const total = (bucket: string) =>
    parts.reduce((sum, { users_by_connections: users }) => sum + (users[bucket] ?? 0), 0);
  return BUCKETS.map((bucket) => [bucket, total(bucket)] as const).filter(([, users]) => users > 0);
}
