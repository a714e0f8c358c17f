/** The memberships of a connection: what is asked of the server, for tabs with different positions. */

import { describe, expect, it } from "vitest";
import type { ControlRequest, ServerMessage } from "../../src/index.js";
import { Memberships } from "../../src/client/memberships.js";
import type { RoomPosition, RoomTarget, WantedRoom } from "../../src/core/rooms.js";
import type { Update } from "../../src/core/updates.js";
import { Clock } from "../support/clock.js";

const NEWS: RoomTarget = { kind: "room", room: "news", history: false };
const NOWHERE: RoomPosition = { epoch: null, offset: null };
const want = (target: RoomTarget, position: RoomPosition = NOWHERE, isNew = false): WantedRoom => ({
  target,
  ...position,
  isNew,
});

/** Memberships of a connection that is established, and what they have asked and reported. */
class Line {
  readonly clock = new Clock();
  readonly asked: ControlRequest[] = [];
  readonly forgotten: string[] = [];
  readonly reported: Update[] = [];
  isFull = false;
  #ids = 0;
  readonly rooms = new Memberships(
    { timers: this.clock.timers, uniqueId: () => `id-${(this.#ids += 1)}` },
    {
      request: (_, message) => {
        if (!this.isFull) this.asked.push(message);
        return !this.isFull;
      },
      forget: (id) => void this.forgotten.push(id),
    },
    (update) => void this.reported.push(update),
  );

  constructor() {
    this.rooms.attach();
  }

  take(message: Pick<ServerMessage, "type" | "payload"> & { correlation_id?: string | undefined }): readonly Update[] {
    return this.rooms.route({ kind: "message", message: { timestamp: 1, ...message } as ServerMessage });
  }

  /** Answers the last request to join. */
  joined(offset: number, verdict: "new" | "exact" | "gap" = "exact", room = "news"): void {
    const payload = { room, epoch: "e", offset, verdict, replayed: 0 };
    this.take({ type: "room_joined", payload, correlation_id: this.asked.at(-1)?.correlation_id });
  }

  event(offset: number, content: string): readonly Update[] {
    const event = { type: "room_message", payload: { content } };
    return this.take({ type: "room_event", payload: { room: "news", offset, epoch: "e", event, timestamp: 1 } });
  }

  get payloads(): object[] {
    return this.asked.map(({ type, payload }) => ({ type, ...payload }));
  }
}

describe("the memberships of a connection", () => {
  it("begin where the tab is, and again for a tab that is behind", () => {
    const line = new Line();
    line.rooms.want("a", [want(NEWS, { epoch: "e", offset: 5 })]);
    line.joined(5);
    line.event(6, "six");
    line.rooms.want("b", [want(NEWS, { epoch: "e", offset: 3 })]);
    line.joined(3);
    line.event(4, "four");
    line.event(5, "five");
    line.event(6, "six");
    expect(line.payloads).toEqual([
      { type: "join_room", room: "news", after: 5, epoch: "e" },
      { type: "join_room", room: "news", after: 3, epoch: "e" },
    ]);
    line.rooms.want("c", [want(NEWS)]);
    const report = line.reported.at(-1);
    expect(report?.kind === "room_state" ? report.state.items : []).toMatchObject([
      { offset: 4 },
      { offset: 5 },
      { offset: 6 },
    ]);
  });

  it("do not begin again for a tab that is ahead, in another epoch, or at the same place", () => {
    const line = new Line();
    line.rooms.want("a", [want(NEWS, { epoch: "e", offset: 5 })]);
    line.joined(5);
    const before = line.reported.length;
    line.rooms.want("b", [want(NEWS, { epoch: "e", offset: 9 })]);
    line.rooms.want("c", [want(NEWS, { epoch: "old", offset: 1 })]);
    expect(line.reported).toHaveLength(before + 2); // both are told where the connection is
    line.rooms.want("d", [want(NEWS, { epoch: "e", offset: 5 })]);
    expect(line.reported).toHaveLength(before + 2);
    expect(line.asked).toHaveLength(1);
  });

  it("are asked for again a second later if too many requests are open", async () => {
    const line = new Line();
    line.isFull = true;
    line.rooms.want("a", [want(NEWS)]);
    line.isFull = false;
    await line.clock.advance(999);
    expect(line.asked).toEqual([]);
    await line.clock.advance(1);
    expect(line.payloads).toEqual([{ type: "join_room", room: "news" }]);
  });

  it("end once no tab wants the room by any name", () => {
    const line = new Line();
    const thread: RoomTarget = { kind: "thread", thread_id: "main", owner: "bob" };
    const byName: RoomTarget = { kind: "room", room: "thread:x", history: false };
    line.rooms.want("a", [want(thread)]);
    line.joined(0, "new", "thread:x");
    line.rooms.want("a", [want(thread), want(byName)]);
    line.joined(0, "new", "thread:x");
    line.rooms.want("a", [want(thread)]);
    line.rooms.want("a", []);
    expect(line.payloads).toEqual([
      { type: "watch_thread", thread_id: "main", owner: "bob" },
      { type: "join_room", room: "thread:x" },
      { type: "unwatch_thread", thread_id: "main", owner: "bob" },
    ]);
  });

  it("that are not joined yet, or not any more, are not left", () => {
    const line = new Line();
    line.isFull = true;
    line.rooms.want("a", [want(NEWS)]);
    line.rooms.want("a", []);
    line.isFull = false;
    line.rooms.want("a", [want(NEWS)]);
    line.joined(0, "new");
    line.take({ type: "room_left", payload: { room: "news" } });
    line.rooms.want("a", []);
    expect(line.payloads).toEqual([{ type: "join_room", room: "news" }]);
    line.rooms.want("a", [want(NEWS)]);
    line.rooms.want("a", []); // before the reply: the server may have joined it
    expect(line.forgotten).toContain(line.asked[1]?.correlation_id);
    expect(line.payloads.at(-1)).toEqual({ type: "leave_room", room: "news" });
  });

  it("drop frames of rooms that no tab wants, and pass everything else on", () => {
    const line = new Line();
    expect(line.event(1, "one")).toEqual([]);
    const left = line.take({ type: "room_left", payload: { room: "news" }, correlation_id: "x" });
    expect(left).toMatchObject([{ kind: "message" }]);
    const skipped: Update = { kind: "skipped", seq: 1, from: 1 };
    expect(line.rooms.route(skipped)).toEqual([skipped]);
  });

  it("wait for the next line after an answer of a server that drains", () => {
    const line = new Line();
    line.rooms.want("a", [want(NEWS)]);
    const payload = { code: "SERVER_DRAINING", error: "", timestamp: 1, recoverable: true, help: "" };
    line.take({ type: "error", payload, correlation_id: line.asked[0]?.correlation_id });
    expect(line.reported.at(-1)).toMatchObject({ state: { status: "joining", error: { code: "SERVER_DRAINING" } } });
    line.rooms.attach();
    expect(line.asked).toHaveLength(2);
  });

  it("ask anew on the next line, and for any epoch once the numbers have begun again", () => {
    const line = new Line();
    line.rooms.want("a", [want(NEWS, { epoch: "e", offset: 3 })]);
    line.rooms.attach();
    expect(line.forgotten).toEqual([line.asked[0]?.correlation_id]);
    line.joined(3);
    line.take({ type: "room_gap", payload: { room: "news", from: 1, to: 2 } });
    line.rooms.attach();
    expect(line.payloads.slice(1)).toEqual([
      { type: "join_room", room: "news", after: 3, epoch: "e" },
      { type: "join_room", room: "news", after: 2 },
    ]);
  });

  it("watch a thread again once after several losses, without a position", () => {
    const line = new Line();
    line.rooms.want("a", [want({ kind: "thread", thread_id: "main", owner: null })]);
    line.joined(3, "new", "thread:x");
    for (const from of [4, 6]) line.take({ type: "room_gap", payload: { room: "thread:x", from, to: from + 1 } });
    expect(line.payloads).toEqual([
      { type: "watch_thread", thread_id: "main" },
      { type: "watch_thread", thread_id: "main" },
    ]);
    line.joined(9, "new", "thread:x");
    line.rooms.attach();
    expect(line.payloads.at(-1)).toEqual({ type: "watch_thread", thread_id: "main", after: 9, epoch: "e" });
  });
});
