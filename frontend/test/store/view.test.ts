import { describe, expect, it } from "vitest";
import type { EventMessage } from "../../src/index.js";
import type { OutboxMessage } from "../../src/core/outbox.js";
import { View } from "../../src/store/view.js";

const THREAD = new Set(["t"]);

const message = (key: string): OutboxMessage => ({
  key,
  message: { type: "user_message", payload: { content: key, thread_id: "t" }, correlation_id: key },
});

const completed = (seq: number): EventMessage => ({
  type: "agent_completed",
  payload: { run_id: `run-${seq}`, status: "completed", duration_ms: 1, result: "" },
  timestamp: 1,
  seq,
});

const delta = (seq: number, run_id: string, content: string): EventMessage => ({
  type: "partial_result",
  payload: { run_id, content },
  timestamp: 1,
  seq,
});

describe("a view", () => {
  it("keeps 500 confirmed messages, and drops the oldest beyond that", () => {
    const view = new View();
    const confirm = (key: string): void =>
      void view.apply({ kind: "settled", message: message(key), ok: true, error: null });
    for (let n = 1; n <= 500; n += 1) confirm(`${n}`);
    expect(view.messages(THREAD)).toHaveLength(500);
    expect(view.messages(THREAD)[0]?.id).toBe("1");
    confirm("501");
    expect(view.messages(THREAD)).toHaveLength(500);
    expect(view.messages(THREAD)[0]?.id).toBe("2");
  });

  it("never drops a message that is not answered", () => {
    const view = new View();
    for (let n = 1; n <= 501; n += 1) view.show(message(`${n}`), `${n}`, "user_message", n);
    expect(view.messages(THREAD)).toHaveLength(501);
  });

  it("keeps 500 ended runs, and drops the oldest beyond that", () => {
    const view = new View();
    for (let seq = 1; seq <= 500; seq += 1) view.apply({ kind: "message", message: completed(seq) });
    expect(view.run("run-1")).toBeDefined();
    view.apply({ kind: "message", message: completed(501) });
    expect(view.run("run-1")).toBeUndefined();
    expect(view.runs(THREAD)).toHaveLength(500);
  });

  it("reports duplicates and gaps, and changes nothing then", () => {
    const view = new View();
    expect(view.apply({ kind: "message", message: delta(1, "r", "a") })).toBe("applied");
    const { version } = view;
    expect(view.apply({ kind: "message", message: delta(1, "r", "a") })).toBe("duplicate");
    expect(view.apply({ kind: "message", message: delta(3, "r", "c") })).toBe("missed");
    expect(view.apply({ kind: "skipped", seq: 1, from: 1 })).toBe("duplicate");
    expect(view.apply({ kind: "skipped", seq: 4, from: 3 })).toBe("missed");
    expect(view.version).toBe(version);
    expect(view.apply({ kind: "skipped", seq: 3, from: 2 })).toBe("applied");
    expect(view.run("r")?.text).toBe("a");
  });

  it("adopts the state of a leader if that is newer, and keeps the messages of its own tab", () => {
    const [leader, follower] = [new View(), new View()];
    leader.apply({ kind: "message", message: delta(1, "r", "one ") });
    leader.apply({ kind: "message", message: delta(2, "r", "two") });
    follower.apply({ kind: "message", message: delta(1, "r", "one ") });
    follower.show(message("own"), "own", "user_message", 1);
    follower.adopt(leader.state());
    expect(follower.run("r")?.text).toBe("one two");
    expect(follower.messages(THREAD).map(({ id }) => id)).toEqual(["r", "own"]);
    const old = new View().state();
    follower.adopt(old);
    expect(follower.run("r")?.text).toBe("one two");
  });

  it("lists messages in the order of their confirmations, also those of other sessions", () => {
    const view = new View();
    view.show(message("own"), "own", "user_message", 1);
    const other = { message_id: "m1", run_id: "r1", user_id: "alice", content: "other" };
    view.addQuestion("t", other, 2);
    view.addQuestion("t", other, 2);
    expect(view.messages(THREAD).map(({ content }) => content)).toEqual(["other", "own"]);
    const payload = { message_id: "m2", run_id: "r2", thread_id: "t", status: "accepted" } as const;
    view.apply({ kind: "message", message: { type: "message_confirmed", payload, timestamp: 3, seq: 1, correlation_id: "own" } });
    expect(view.messages(THREAD).map(({ content }) => content)).toEqual(["other", "own", ""]);
    view.drop("t");
    expect(view.messages(THREAD)).toEqual([]);
  });

  it("gives the same objects for what has not changed", () => {
    const view = new View();
    view.apply({ kind: "message", message: delta(1, "r1", "a") });
    view.apply({ kind: "message", message: delta(2, "r2", "b") });
    const before = view.messages(THREAD);
    view.apply({ kind: "message", message: delta(3, "r2", "c") });
    const after = view.messages(THREAD);
    expect(after[0]).toBe(before[0]);
    expect(after[1]).not.toBe(before[1]);
  });
});
