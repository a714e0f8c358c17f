// The samples of all nodes as series for charts: a value for each ten seconds of the last hour.

import { HISTORY, newestOf, STEP } from "./state.ts";
import type { Sample } from "./types.ts";

const MINUTE = 60; // seconds

/** A value for each step of the last hour, the oldest first; null where there is none. */
export type Series = readonly (number | null)[];

/** The samples of each step, of all nodes. */
export type Steps = readonly (readonly Sample[])[];

/** @param now In Unix seconds. Clocks of nodes may differ: a sample belongs to the step of its `at`. */
export function stepsOf(samples: ReadonlyMap<string, readonly Sample[]>, now: number): Steps {
  const last = Math.floor(now / STEP);
  const steps = Array.from({ length: HISTORY }, (): Sample[] => []);
  for (const sample of [...samples.values()].flat()) {
    const ago = last - Math.floor(sample.at / STEP);
    // A sample of the future is one of a clock that is ahead.
    steps[HISTORY - 1 - Math.max(0, ago)]?.push(sample);
  }
  return steps;
}

type Pick = (sample: Sample) => number | null;

/** Counts and rates of several nodes add up. */
export const sums = (steps: Steps, pick: Pick): Series =>
  steps.map((samples) => joined(samples.map(pick), (values) => values.reduce((sum, value) => sum + value, 0)));

/** Percentiles and means cannot be added: the largest one. */
export const largest = (steps: Steps, pick: Pick): Series =>
  steps.map((samples) => joined(samples.map(pick), (values) => Math.max(...values)));

/** The share of the first count in both, from 0 to 1. */
export const shares = (steps: Steps, good: (sample: Sample) => number, bad: (sample: Sample) => number): Series =>
  steps.map((samples) => {
    const [yes, no] = [total(samples, good), total(samples, bad)];
    return yes + no === 0 ? null : yes / (yes + no);
  });

const total = (samples: readonly Sample[], pick: (sample: Sample) => number): number =>
  samples.reduce((sum, sample) => sum + pick(sample), 0);

function joined(picked: readonly (number | null)[], join: (values: readonly number[]) => number): number | null {
  const values = picked.filter((value) => value !== null);
  return values.length === 0 ? null : join(values);
}

/** The counts of the hour by name, the most frequent first. */
export function countsOf(
  steps: Steps,
  pick: (sample: Sample) => Readonly<Record<string, number>>,
): readonly (readonly [name: string, count: number])[] {
  const counts = new Map<string, number>();
  for (const sample of steps.flat()) {
    for (const [name, count] of Object.entries(pick(sample))) counts.set(name, (counts.get(name) ?? 0) + count);
  }
  return [...counts].sort(([a, more], [b, less]) => less - more || (a < b ? -1 : 1));
}

export const sumOf = (record: Readonly<Record<string, number>>): number =>
  Object.values(record).reduce((sum, count) => sum + count, 0);

/** The sum of a count over the samples of the last minute, of all nodes. */
export function lastMinute(samples: ReadonlyMap<string, readonly Sample[]>, pick: (sample: Sample) => number): number {
  const oldest = newestOf(samples) - MINUTE;
  return total([...samples.values()].flat().filter(({ at }) => at > oldest), pick);
}
