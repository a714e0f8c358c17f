/** The state of the live page after the messages of its room, and what the page makes of it. */

import { describe, expect, it } from "vitest";
import type * as Format from "../../pages/admin/format.ts";
import type * as Path from "../../pages/admin/charts/path.ts";
import type * as Series from "../../pages/admin/live/series.ts";
import type * as State from "../../pages/admin/live/state.ts";
import type * as Tree from "../../pages/admin/live/tree.ts";
import { nodePart, runPart, sample, sessionPart } from "../support/live.js";

const load = (path: string): Promise<unknown> =>
  import(/* @vite-ignore */ new URL(`../../pages/admin/${path}`, import.meta.url).pathname);
const { afterContent, afterPause, HISTORY, NOTHING, partsOf, silentAt, withoutSilent } = (await load("live/state.ts")) as typeof State;
const { countsOf, largest, lastMinute, shares, stepsOf, sums } = (await load("live/series.ts")) as typeof Series;
const { treeOf } = (await load("live/tree.ts")) as typeof Tree;
const { pathOf } = (await load("charts/path.ts")) as typeof Path;
const { age, amount, bytes, orNone, percent, time } = (await load("format.ts")) as typeof Format;

type Content = Parameters<typeof afterContent>[1];
const after = (...contents: Content[]): State.Live =>
  contents.reduce((live, content) => afterContent(live, content, 1000), NOTHING);
const history = (node: string, ...ats: number[]): Content => ({
  kind: "history",
  node,
  at: 100,
  interval: 10,
  samples: ats.map((at) => sample({ at })),
});
const timesOf = (live: State.Live, node: string): number[] => (live.samples.get(node) ?? []).map(({ at }) => at);

describe("the nodes", () => {
  it("are those with a part, by id, with their newest part", () => {
    const live = after(nodePart("b"), nodePart("a", { at: 1 }), nodePart("a", { at: 2 }));
    expect(partsOf(live).map(({ node, at }) => [node, at])).toEqual([["a", 2], ["b", 100]]);
  });

  it("go when they say so, and their samples stay", () => {
    const live = after(nodePart("a"), history("a", 10), { kind: "gone", node: "a", at: 101 });
    expect(partsOf(live)).toEqual([]);
    expect(timesOf(live, "a")).toEqual([10]);
    expect(partsOf(afterContent(live, nodePart("a"), 1000))).toHaveLength(1);
  });

  it("go after five intervals without a part", () => {
    const live = after(nodePart("a", { interval: 2 }));
    expect(withoutSilent(live, 11_000)).toBe(live);
    expect(partsOf(withoutSilent(live, 11_001))).toEqual([]);
    expect([silentAt(live), silentAt(afterContent(live, nodePart("b"), 1000)), silentAt(NOTHING)]).toEqual([11_001, 6_001, Infinity]);
  });

  it("have their time again after the page had no connection", () => {
    const live = afterPause(after(nodePart("a")), 60_000);
    expect(partsOf(withoutSilent(live, 65_000))).toHaveLength(1);
    expect(partsOf(withoutSilent(live, 65_001))).toEqual([]);
  });

  it("ignore a kind that a later version sends", () => {
    const live = after(nodePart("a"));
    expect(afterContent(live, { kind: "weather" } as unknown as Content, 1000)).toBe(live);
  });
});

describe("the samples", () => {
  it("come from the history and from parts, once each and in order", () => {
    const part = nodePart("a", { sample: sample({ at: 30 }) });
    expect(timesOf(after(part, part, history("a", 10, 20, 30)), "a")).toEqual([10, 20, 30]);
    expect(timesOf(after(history("a", 10, 20), part, nodePart("a")), "a")).toEqual([10, 20, 30]);
  });

  it("are those of an hour", () => {
    const all = Array.from({ length: HISTORY + 1 }, (_, index) => index * 10);
    expect(timesOf(after(history("a", ...all)), "a").slice(0, 2)).toEqual([10, 20]);
    expect(timesOf(after(history("a", ...all)), "a")).toHaveLength(HISTORY);
  });
});

describe("the samples of a node that has ended", () => {
  it("stay for their hour", () => {
    const live = after(history("old", 1000), { kind: "gone", node: "old", at: 1001 }, history("new", 4599));
    expect(timesOf(live, "old")).toEqual([1000]);
    expect([...after(history("old", 1000), history("new", 4600)).samples.keys()]).toEqual(["new"]);
  });

  it("do not count in the last minute for ever", () => {
    const errors = { X: 1 };
    const samples = (now: number): State.Live["samples"] =>
      new Map([["old", [sample({ at: 100, errors })]], ["new", [sample({ at: now - 10, errors }), sample({ at: now })]]]);
    const count = (now: number): number => lastMinute(samples(now), (one) => one.errors["X"] ?? 0);
    expect([count(159), count(160)]).toEqual([2, 1]);
  });
});

describe("the series", () => {
  const samples = new Map([
    ["a", [sample({ at: 981, sent: 1, processing_p50: 0.5, errors: { X: 2 }, opened: 9, refused: 1 }), sample({ at: 1000, sent: 2 })]],
    ["b", [sample({ at: 985, sent: 4, processing_p50: 0.2, errors: { X: 1, Y: 5 } }), sample({ at: 1007, sent: 8 })]],
  ]);
  const steps = stepsOf(samples, 1001);
  const last = (series: Series.Series): (number | null)[] => series.slice(-3);

  it("add the counts of all nodes in each step", () => {
    expect(steps).toHaveLength(HISTORY);
    expect(last(sums(steps, ({ sent }) => sent))).toEqual([5, null, 10]);
    expect(sums(steps, ({ sent }) => sent)[0]).toBeNull();
  });

  it("take the largest percentile", () => {
    expect(last(largest(steps, (one) => one.processing_p50))).toEqual([0.5, null, null]);
  });

  it("divide the sums of a share", () => {
    expect(last(shares(steps, ({ opened }) => opened, ({ refused }) => refused))).toEqual([0.9, null, null]);
  });

  it("count names over the hour, the most frequent first", () => {
    expect(countsOf(steps, ({ errors }) => errors)).toEqual([["Y", 5], ["X", 3]]);
  });

  it("put a sample of a clock that is ahead at the end, and leave out one of before the hour", () => {
    const far = new Map([["a", [sample({ at: 1001 - 3600, sent: 1 }), sample({ at: 1001 - 3590, sent: 2 }), sample({ at: 5000, sent: 3 })]]]);
    const series = sums(stepsOf(far, 1001), ({ sent }) => sent);
    expect(series[0]).toBe(2);
    expect(series.at(-1)).toBe(3);
    expect(series.filter((value) => value !== null)).toHaveLength(2);
  });
});

describe("the path of a series", () => {
  const size = { width: 40, height: 24, top: 10 };
  it.each([
    ["a line", [0, 10], "M10 22L30 2"],
    ["a gap", [0, null, 10, 5], "M5 22h0.6M25 2L35 12"],
    ["a value above the top", [20, 10], "M10 2L30 2"],
    ["nothing", [null, null], ""],
    ["no steps", [], ""],
  ] as const)("is %s", (_, series, path) => expect(pathOf(series, size)).toBe(path));

  it("is at the bottom where all is zero", () => {
    expect(pathOf([0, 0], { ...size, top: 0 })).toBe("M10 22L30 22");
  });
});

describe("the tree", () => {
  const [busy, idle] = [sessionPart("s1", { age: 50, user_id: "alice" }), sessionPart("s2", { age: 10 })];
  const run = runPart("r1", { session_id: "s1", agent: "shop", tools: [{ tool_call_id: "t", name: "search", age: 1 }] });
  const left = runPart("r2", { session_id: null, age: 5 });
  const unlisted = runPart("r3", { session_id: "s9", age: 7 });
  const parts = [nodePart("n1", { sessions: [idle, busy], runs: [run, left, unlisted] }), nodePart("n2")];
  const ids = (text: string, withIdle = true): string[] =>
    treeOf(parts, { text, idle: withIdle }).map(({ session, runs }) => `${session?.session_id ?? "-"}:${runs.map(({ run_id }) => run_id).join()}`);

  it("has sessions with runs first, and the newest of them first", () => {
    expect(ids("")).toEqual(["-:r2", "-:r3", "s1:r1", "s2:"]);
    expect(ids("", false)).toEqual(["-:r2", "-:r3", "s1:r1"]);
  });

  it.each([
    ["ALICE", ["s1:r1"]],
    ["shop search", ["s1:r1"]],
    ["shop other", []],
    ["r3", ["-:r3"]],
    ["n1", ["-:r2", "-:r3", "s1:r1", "s2:"]],
    ["n2", []],
  ])("finds %s", (text, found) => expect(ids(text)).toEqual(found));
});

describe("a text", () => {
  it.each([
    [time(0.0084), "8 ms"],
    [time(1.23), "1.2 s"],
    [time(45), "45 s"],
    [time(99.5), "1 min"],
    [time(3599), "59 min"],
    [time(7500), "2 h 5 min"],
    [time(7200), "2 h"],
    [time(273_600), "3 d 4 h"],
    [age(0.4), "0 s"],
    [age(-3), "0 s"],
    [age(99.4), "99 s"],
    [age(120), "2 min"],
    [bytes(512), "512 B"],
    [bytes(1536), "1.5 KiB"],
    [bytes(300 * 1024 ** 2), "300 MiB"],
    [bytes(5000 * 1024 ** 3), "5,000 GiB"],
    [amount(0.25), "0.3"],
    [amount(1234.5), "1,235"],
    [percent(1), "100 %"],
    [percent(0.9999), "99.9 %"],
    [percent(0), "0 %"],
    [orNone(null, time), "–"],
  ])("%s", (text, expected) => expect(text).toBe(expected));
});
