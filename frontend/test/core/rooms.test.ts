/** The state of a room, after frames, and completed by that of another tab. */

import { describe, expect, it } from "vitest";
import {
  adopted,
  afterJoined,
  afterRoomEvent,
  afterRoomGap,
  newItems,
  newRoom,
  ROOM_CHARACTERS,
  ROOM_ITEMS,
  type RoomItem,
  type RoomState,
} from "../../src/core/rooms.js";

const room = (epoch = "e", offset = 0): RoomState =>
  afterJoined(newRoom({ kind: "room", room: "r", history: false }), {
    room: "r",
    epoch,
    offset,
    verdict: "new",
    replayed: 0,
  });

const event = (state: RoomState, offset: number, epoch = "e", offset_from?: number): RoomState =>
  afterRoomEvent(state, {
    room: "r",
    offset,
    epoch,
    event: { type: "room_message", payload: { content: `${offset}` } },
    timestamp: 1,
    ...(offset_from === undefined ? {} : { offset_from }),
  });

const after = (offsets: readonly number[], state = room()): RoomState =>
  offsets.reduce((before, offset) => event(before, offset), state);

const shown = (items: readonly RoomItem[]): string[] =>
  items.map((item) => (item.kind === "gap" ? `${item.from}-${item.to}${item.isRestart ? "!" : ""}` : `${item.offset}`));

describe("a room", () => {
  it("ignores what it has, and allows offsets that skip", () => {
    const state = after([1, 2, 5]);
    expect(event(state, 5)).toBe(state);
    expect(event(state, 3)).toBe(state);
    expect(shown(state.items)).toEqual(["1", "2", "5"]);
    expect(state).toMatchObject({ offset: 5, losses: 1 });
  });

  it("counts a merged event that overlaps as a loss", () => {
    expect(event(after([1, 2]), 4, "e", 2).losses).toBe(2);
    expect(event(after([1, 2]), 4, "e", 3).losses).toBe(1);
  });
});

describe("the events that are kept", () => {
  const sized = (sizes: readonly number[]): readonly RoomItem[] =>
    sizes.reduce(
      (state, size, index) =>
        afterRoomEvent(state, {
          room: "r",
          offset: index + 1,
          epoch: "e",
          event: { type: "room_message", payload: { content: "x".repeat(size - `{"content":""}`.length) } },
          timestamp: 1,
        }),
      room(),
    ).items;

  it("are the newest, up to a number", () => {
    const all = Array.from({ length: ROOM_ITEMS + 1 }, (_, index) => index + 1);
    expect(after(all.slice(0, -1)).items).toHaveLength(ROOM_ITEMS);
    expect(shown(after(all).items).slice(0, 2)).toEqual(["2", "3"]);
  });

  it("are the newest, up to a number of characters, and at least one", () => {
    const half = ROOM_CHARACTERS / 2;
    expect(shown(sized([100, half, half]))).toEqual(["2", "3"]);
    expect(shown(sized([100, half, half + 1]))).toEqual(["3"]);
    expect(shown(sized([100, ROOM_CHARACTERS + 1]))).toEqual(["2"]);
    expect(shown(sized([100, ROOM_CHARACTERS + 1, 50]))).toEqual(["3"]);
  });
});

describe("the state of another tab", () => {
  it("completes the own one, and says what is new", () => {
    const own = after([1, 2]);
    const both = adopted(own, after([1, 2, 3, 4]));
    expect(shown(both.items)).toEqual(["1", "2", "3", "4"]);
    expect(shown(newItems(own, both))).toEqual(["3", "4"]);
  });

  it("replaces one that was never joined", () => {
    const other = after([1, 2]);
    expect(adopted(newRoom({ kind: "room", room: "r", history: false }), other)).toBe(other);
  });

  it("at the same place leaves the events", () => {
    const own = after([1, 2]);
    expect(adopted(own, after([2], room("e", 1))).items).toBe(own.items);
  });

  it("that begins later leaves a gap", () => {
    const later = after([8, 9], room("e", 7));
    const both = adopted(after([1, 2]), later);
    expect(shown(both.items)).toEqual(["1", "2", "3-7", "8", "9"]);
    expect(both.since).toBe(7);
    expect(shown(adopted(both, after([8, 9, 10], room("e", 7))).items)).toEqual(["1", "2", "3-7", "8", "9", "10"]);
  });

  it("that has seen the numbers begin again has the rest of the old ones", () => {
    const restarted = event(afterRoomGap(after([1, 2, 3]), { room: "r", from: 1, to: 0 }), 1, "f");
    const both = adopted(after([1, 2]), restarted);
    expect(shown(both.items)).toEqual(["1", "2", "3", "1-0!", "1"]);
  });

  it("of another epoch that says nothing of the own one leaves a gap", () => {
    const other = event(room("f", 4), 5, "f");
    expect(shown(adopted(after([1, 2]), other).items)).toEqual(["1", "2", "1-4!", "5"]);
  });
});
