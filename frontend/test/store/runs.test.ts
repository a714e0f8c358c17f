/** The runs of a tab: which of several reports of one run is shown. */

import { describe, expect, it } from "vitest";
import { NEW_RUN } from "../../src/core/runs.js";
import type { Run } from "../../src/core/snapshot.js";
import { RunStore } from "../../src/store/runs.js";

const run = (text: string, more: Partial<Run> = {}): Run => ({ ...NEW_RUN, run_id: "r", status: "running", text, ...more });
const watched = (text: string, more: Partial<Run> = {}): ReadonlyMap<string, Run> => new Map([["r", run(text, more)]]);

describe("a run", () => {
  it("of this session is shown as its events have it, and of an earlier one as the thread has it", () => {
    const runs = new RunStore();
    runs.event(run("own"));
    runs.watch("t", watched("old"));
    expect(runs.get("r")?.text).toBe("own");
    runs.begin();
    expect(runs.get("r")?.text).toBe("old");
    runs.watch("t", null);
    expect(runs.get("r")?.text).toBe("own");
  });

  it("of another session does not keep a tab at its server", () => {
    const runs = new RunStore();
    runs.set(run("asks"));
    expect(runs.isActive).toBe(false);
    runs.event(run("own"));
    expect(runs.isActive).toBe(true);
    runs.event(run("own", { status: "completed" }));
    expect(runs.isActive).toBe(false);
  });

  it("does not go on after its end, in any report", () => {
    const runs = new RunStore();
    runs.watch("t", watched("so far"));
    runs.list(run("all", { status: "completed" }));
    expect(runs.get("r")).toMatchObject({ status: "completed", text: "all" });
    runs.watch("t", watched("all, live", { status: "completed" }));
    expect(runs.get("r")?.text).toBe("all, live");
  });

  it("keeps its usage, and loses what was missed of it, once the history has its end", () => {
    const runs = new RunStore();
    const usage = [{ model: "m", input_tokens: 1, output_tokens: 2 }];
    runs.event(run("so far", { usage }));
    runs.list(run("all", { status: "completed" }));
    expect(runs.get("r")).toMatchObject({ status: "completed", text: "all", usage });
  });

  it("that is hidden is not shown, in any report", () => {
    const runs = new RunStore();
    runs.watch("t", watched("x"));
    runs.hide("r");
    expect(runs.get("r")).toBeUndefined();
    expect([runs.isHidden("r"), runs.isHidden(null)]).toEqual([true, false]);
    runs.clear();
    runs.event(run("again"));
    expect(runs.get("r")?.text).toBe("again");
  });
});
