/** The work for a delta: it does not grow with the number of messages, nor with the text. */

import { afterEach, describe, expect, it, vi } from "vitest";
import { SnapshotComposer } from "../../src/client/snapshot.js";
import { Conversation } from "../../src/store/conversation.js";
import { View } from "../../src/store/view.js";
import type { EventMessage } from "../../src/index.js";

const SHOWN = new Set(["t"]);
const parts = {
  state: { stats: { queued: 0 } },
  lastError: null,
  role: "alone",
  threadId: "t",
  shown: SHOWN,
  rooms: new Map(),
  threads: {},
  unaccepted: 0,
} as unknown as Parameters<SnapshotComposer["compose"]>[0];

let seq = 0;
const apply = (view: View, type: string, payload: object): void =>
  void view.apply({ kind: "message", message: { type, payload, timestamp: 1, seq: (seq += 1) } as unknown as EventMessage });

function viewWith(ended: number): View {
  const view = new View();
  seq = 0;
  for (let n = 0; n < ended; n += 1) {
    apply(view, "agent_started", { run_id: `old-${n}`, agent_name: "a", thread_id: "t", attempt: 1 });
    apply(view, "partial_result", { run_id: `old-${n}`, content: "old" });
    apply(view, "agent_completed", { run_id: `old-${n}`, status: "completed", duration_ms: 1 });
  }
  apply(view, "agent_started", { run_id: "r", agent_name: "a", thread_id: "t", attempt: 1 });
  apply(view, "partial_result", { run_id: "r", content: "first" });
  return view;
}

/** The elements that are read while deltas arrive, and each is followed by a snapshot. */
function workOf(ended: number, deltas: number): number {
  const view = viewWith(ended);
  const composer = new SnapshotComposer(view);
  composer.compose(parts);
  let count = 0;
  const next = Object.getPrototypeOf(new Map().values()) as { next: () => unknown };
  const { next: read } = next;
  next.next = function counted(this: unknown) {
    count += 1;
    return read.call(this);
  };
  try {
    for (let n = 0; n < deltas; n += 1) {
      apply(view, "partial_result", { run_id: "r", content: "word " });
      expect(composer.compose(parts).writing.get("r")?.text.length).toBe(5 + 5 * (n + 1));
    }
  } finally {
    next.next = read;
  }
  return count / deltas;
}

afterEach(() => vi.restoreAllMocks());

describe("a delta", () => {
  it("costs the same with 3 and with 300 messages, and in a short and in a long text", () => {
    const small = workOf(3, 10);
    expect(small).toBeLessThan(10);
    expect(workOf(300, 10)).toBe(small);
    expect(workOf(3, 2_000)).toBeCloseTo(small, 0);
  });

  it("lists no message again, until the messages are read or something else happens", () => {
    const view = viewWith(5);
    const composer = new SnapshotComposer(view);
    const before = composer.compose(parts);
    const list = vi.spyOn(Conversation.prototype, "messages");
    apply(view, "partial_result", { run_id: "r", content: " second" });
    const after = composer.compose(parts);
    expect(list).not.toHaveBeenCalled();
    expect(after.outline).toBe(before.outline);
    expect(after.messages.map(({ content }) => content)).toEqual(["old", "old", "old", "old", "old", "first second"]);
    expect(after.messages[0]).toBe(before.messages[0]);
    expect(before.messages.at(-1)?.content).toBe("first");
    expect(after.runs.at(-1)?.text).toBe("first second");
    apply(view, "agent_thinking", { run_id: "r", thought: "x" });
    expect(composer.compose(parts).outline).not.toBe(before.outline);
    expect(list).toHaveBeenCalledTimes(1);
  });
});
