/**
 * The parts of an answer: the same order from live events, the history, a resume at any place, and a
 * watched thread.
 */

import { describe, expect, it } from "vitest";
import { partText, partsAt } from "../../src/core/parts.js";
import { afterJoined, afterRoomEvent, newRoom } from "../../src/core/rooms.js";
import { afterEvent, afterHistory, afterResume, runFromHistory } from "../../src/core/runs.js";
import { isEnd, type Run } from "../../src/core/snapshot.js";
import type { EventMessage, EventType, HistoryMessage, HistoryQuestion, HistoryStep, JsonObject, ResumedRun } from "../../src/index.js";

const PIECES = ["Hello ", "wörld. ", "😀😀", "\n\n", "```js\n", "a", "العربية ", ""];
const SEEDS = Array.from({ length: 150 }, (_, seed) => seed);

/** Numbers below `end`, the same for each seed (mulberry32). */
function numbers(seed: number): (end: number) => number {
  let state = seed;
  return (end) => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) % end;
  };
}

type Body = { [T in EventType]: { readonly type: T; readonly payload: Extract<EventMessage, { type: T }>["payload"] } }[EventType];

const event = (body: Body, seq: number): EventMessage =>
  ({ ...body, timestamp: 1, correlation_id: "key", seq });

/** The events of a run: text, thoughts, tools side by side, questions, a second attempt. */
function randomRun(seed: number): EventMessage[] {
  const below = numbers(seed);
  const bodies: Body[] = [];
  const tools: string[] = [];
  const questions: string[] = [];
  const run_id = "r";
  const start = (attempt: number): void =>
    void bodies.push({ type: "agent_started", payload: { run_id, agent_name: "demo", thread_id: "t", attempt } });
  start(1);
  for (let n = 0; n < below(24); n += 1) {
    const id = `${n}`;
    switch (below(7)) {
      case 0:
        bodies.push({ type: "agent_thinking", payload: { run_id, thought: `thought ${id}`, step_number: n } });
        break;
      case 1:
        tools.push(id);
        bodies.push({ type: "tool_executing", payload: { run_id, tool_call_id: id, tool_name: "look", arguments: { n } } });
        break;
      case 2: {
        const tool_call_id = tools.splice(below(tools.length || 1), 1)[0];
        if (tool_call_id === undefined) break;
        const outcome = below(2) === 0 ? { success: true, result: [n] } : { success: false, error: "no" };
        bodies.push({ type: "tool_completed", payload: { run_id, tool_call_id, tool_name: "look", duration_ms: n, ...outcome } });
        break;
      }
      case 3:
        questions.push(id);
        bodies.push({ type: "agent_asking", payload: { run_id, question_id: id, kind: "question", prompt: "?", expires_at: 9 } });
        break;
      case 4: {
        const question_id = questions.shift();
        if (question_id === undefined) break;
        bodies.push({ type: "agent_answered", payload: { run_id, question_id, outcome: "answered", answer: n, user_id: "alice" } });
        break;
      }
      default:
        bodies.push({ type: "partial_result", payload: { run_id, content: PIECES[below(PIECES.length)] ?? "" } });
    }
  }
  if (!bodies.some(({ type }) => type === "partial_result") && below(2) === 0) start(2);
  for (const question_id of questions) {
    bodies.push({ type: "agent_answered", payload: { run_id, question_id, outcome: "cancelled" } });
  }
  bodies.push({ type: "agent_completed", payload: { run_id, status: "completed", duration_ms: 7, result: textOf(bodies) } });
  return bodies.map((body, index) => event(body, index + 1));
}

const textOf = (events: readonly Body[]): string =>
  events.map((one) => (one.type === "partial_result" ? one.payload.content : "")).join("");

/** What the server tells of a run after some of its events. */
function steps(events: readonly EventMessage[]): HistoryStep[] {
  const found: HistoryStep[] = [];
  events.forEach((one, index) => {
    const at = Array.from(textOf(events.slice(0, index))).length;
    if (one.type === "agent_thinking") {
      const { run_id: _, ...thought } = one.payload;
      found.push({ type: "thought", at, ...thought });
    } else if (one.type === "tool_executing") {
      const { run_id: _, ...tool } = one.payload;
      found.push({ type: "tool", at, ...tool });
    } else if (one.type === "tool_completed") {
      const { run_id: _, tool_name: __, ...end } = one.payload;
      const index = found.findIndex(({ tool_call_id }) => tool_call_id === end.tool_call_id);
      found[index] = { ...found[index], ...end } as HistoryStep;
    } else if (one.type === "agent_asking") {
      found.push({ type: "question", at, question_id: one.payload.question_id });
    }
  });
  return found;
}

function questions(events: readonly EventMessage[]): HistoryQuestion[] {
  const asked = new Map<string, HistoryQuestion>();
  for (const { type, payload } of events) {
    if (type === "agent_asking") asked.set(payload.question_id, { ...payload });
    if (type !== "agent_answered") continue;
    const { run_id: _, ...answered } = payload;
    asked.set(payload.question_id, { ...asked.get(payload.question_id), ...answered } as HistoryQuestion);
  }
  return [...asked.values()];
}

const about = (events: readonly EventMessage[]): NonNullable<HistoryMessage["run"]> => {
  const status = events.some(({ type }) => type === "agent_completed") ? "completed" : "running";
  const ended = status === "completed" ? { duration_ms: 7 } : {};
  return { run_id: "r", agent_name: "demo", status, questions: questions(events), ...ended };
};

const question = (events: readonly EventMessage[]): HistoryMessage & { run: NonNullable<HistoryMessage["run"]> } => ({
  message_id: "m1",
  role: "user",
  content: "?",
  created_at: 1,
  correlation_id: "key",
  run: about(events),
});

const answer = (events: readonly EventMessage[]): HistoryMessage & { run: NonNullable<HistoryMessage["run"]> } => ({
  message_id: "m2",
  role: "agent",
  content: textOf(events),
  created_at: 2,
  reply_to: "m1",
  run: about(events),
  steps: steps(events),
});

const resumed = (events: readonly EventMessage[]): ResumedRun => ({
  run_id: "r",
  thread_id: "t",
  correlation_id: "key",
  status: about(events).status,
  content: textOf(events),
  steps: steps(events),
  questions: questions(events).filter(({ outcome }) => outcome === undefined),
});

const follow = (run: Run | undefined, events: readonly EventMessage[]): Run | undefined =>
  events.reduce<Run | undefined>((before, one) => afterEvent(before, one), run);

/** What a user sees of a run. */
const seen = (run: Run | undefined) =>
  run && {
    text: run.text,
    parts: run.parts,
    thoughts: run.thoughts,
    tools: run.tools,
    questions: run.questions,
    status: run.status,
    agent_name: run.agent_name,
    duration_ms: run.duration_ms,
  };

/** The run with what a page of the history says of it, read after these events. */
const withPage = (run: Run | undefined, events: readonly EventMessage[]): Run | undefined =>
  afterHistory(run, question(events), "t", false) ?? run;

describe("the parts of an answer", () => {
  it.each(SEEDS)("are the same live, from the history, after a resume, and watched (run %i)", (seed) => {
    const events = randomRun(seed);
    const below = numbers(seed + 1_000);
    const live = follow(undefined, events);
    const texts = live?.parts.map((part) => (part.type === "text" ? partText(live.text, part) : "")) ?? [];
    expect(texts.join("")).toBe(textOf(events));
    expect(seen(runFromHistory(answer(events), question(events), "t"))).toEqual(seen(live));
    for (let cut = 1; cut < events.length; cut += 1) {
      const [before, after] = [events.slice(0, cut), events.slice(cut)];
      // A reloaded page has nothing, and another one has missed the events since an earlier place.
      const unknown = afterResume(undefined, resumed(before), false);
      const behind = afterResume(follow(undefined, events.slice(0, below(cut))), resumed(before), false);
      const exact = afterResume(follow(undefined, before), resumed(before), true);
      expect(seen(follow(withPage(unknown, before), after))).toEqual(seen(live));
      expect(seen(follow(withPage(behind, before), after))).toEqual(seen(live));
      expect(seen(follow(exact, after))).toEqual(seen(live));
      expect(watched(before, after, below)).toEqual(seen(live));
    }
  });

  /** A run of a watched thread that was joined between the events; some deltas are merged. */
  function watched(before: readonly EventMessage[], after: readonly EventMessage[], below: (end: number) => number): unknown {
    const { thread_id: _, correlation_id: __, questions: open = [], ...run } = resumed(before);
    const listed = { ...run, message_id: "m1", agent_name: "demo", questions: open };
    const joined = { room: "thread:1", epoch: "e", offset: 1, verdict: "new" as const, replayed: 0, runs: [listed] };
    let state = afterJoined(newRoom({ kind: "thread", thread_id: "t", owner: null }), joined);
    // As a page of the history completes the run of a session.
    state = { ...state, runs: new Map([["r", withPage(state.runs.get("r"), before) as Run]]) };
    for (let index = 0; index < after.length; index += 1) {
      let one = after[index] as EventMessage;
      for (let next = after[index + 1]; below(2) === 0; next = after[index + 1]) {
        if (one.type !== "partial_result" || next?.type !== "partial_result") break;
        one = { ...next, payload: { run_id: "r", content: one.payload.content + next.payload.content } };
        index += 1;
      }
      const { type, payload, timestamp } = one;
      state = afterRoomEvent(state, { room: "thread:1", offset: index + 2, epoch: "e", event: { type, payload: payload as object as JsonObject }, timestamp });
    }
    return seen(state.runs.get("r"));
  }

  it("stay the same array while text follows text, so that a delta changes no other part", () => {
    const started = follow(undefined, randomRun(1).slice(0, 1));
    const one = afterEvent(started, event({ type: "partial_result", payload: { run_id: "r", content: "a" } }, 2));
    const two = afterEvent(one, event({ type: "partial_result", payload: { run_id: "r", content: "b" } }, 3));
    expect(one.parts).toEqual([{ type: "text", from: 0, to: null }]);
    expect(two.parts).toBe(one.parts);
  });

  it("of a text without its beginning have the steps of that beginning in front", () => {
    const shown = afterResume(undefined, { ...resumed([]), content: "lo", truncated: true, steps: [{ type: "thought", at: 0, thought: "x" }] }, false);
    expect(shown).toMatchObject({ truncated: true, parts: [{ type: "thought", index: 0 }, { type: "text", from: 0, to: null }] });
  });

  it("keep the steps that this client has whole, where the server has shortened or dropped them", () => {
    const events = randomRun(0).slice(0, 1);
    const more: Body[] = [
      { type: "agent_thinking", payload: { run_id: "r", thought: "a long thought" } },
      { type: "partial_result", payload: { run_id: "r", content: "ab" } },
      { type: "tool_executing", payload: { run_id: "r", tool_call_id: "c", tool_name: "look", arguments: "long" } },
      { type: "tool_completed", payload: { run_id: "r", tool_call_id: "c", tool_name: "look", success: true, result: "long", duration_ms: 1 } },
    ];
    const known = follow(undefined, [...events, ...more.map(event)]);
    const short: ResumedRun = { ...resumed([]), content: "abc", steps: [{ type: "thought", at: 0, thought: "a l", truncated: true }] };
    const after = afterResume(known, short, false);
    expect(after.thoughts).toEqual([{ thought: "a long thought" }]);
    expect(after.tools).toMatchObject([{ tool_call_id: "c", result: "long" }]);
    expect(after.parts).toEqual([
      { type: "thought", index: 0 },
      { type: "text", from: 0, to: 2 },
      { type: "tool", tool_call_id: "c" },
      { type: "text", from: 2, to: null },
    ]);
  });

  it("of an ended run have no place behind its text, which the history may have cut", () => {
    expect(partsAt([{ at: 9, part: { type: "tool", tool_call_id: "c" } }], 4)).toEqual([
      { type: "text", from: 0, to: 4 },
      { type: "tool", tool_call_id: "c" },
    ]);
    const cut = runFromHistory({ ...answer([]), content: "", truncated: true, steps: [{ type: "tool", at: 3, tool_call_id: "c", tool_name: "n" }] }, undefined, "t");
    expect(cut.tools).toMatchObject([{ status: "cut" }]);
    expect(isEnd(cut.status)).toBe(false);
  });
});
