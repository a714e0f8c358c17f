/**
 * What a client has of a room, after each frame of it: its position, its newest events, and for a
 * watched thread its runs.
 *
 * A position is an epoch and an offset. Offsets may skip, because a session gets no room events of
 * its own runs; only a gap means loss, and it becomes an entry among the events.
 */

import { readRoomEvent, type RoomEvent } from "../protocol/decode.js";
import type {
  ControlPayloads,
  ControlRequest,
  ErrorBody,
  RoomEventBody,
  RoomEvents,
  WatchedRun,
} from "../protocol/messages.js";
import { afterEvent, afterResume, NEW_RUN } from "./runs.js";
import { isEnd, type Run } from "./snapshot.js";

const ENDED_RUNS = 8; // of a watched thread, besides those that run: each event makes a new map of them
export const ROOM_ITEMS = 1_000; // of a room that a tab keeps, as many as a server keeps by default
export const ROOM_CHARACTERS = 4_000_000; // of their payloads as JSON; an event may have 256 KiB

/** A room by its name, or the room of a thread. */
export type RoomTarget =
  | { readonly kind: "room"; readonly room: string; readonly history: boolean }
  /** `owner`: the user of a thread that is shared; null for this user's own. */
  | { readonly kind: "thread"; readonly thread_id: string; readonly owner: string | null };

/** An event, or a gap: the events `from` to `to` are missing. */
export type RoomItem =
  | {
      readonly kind: "event";
      readonly epoch: string;
      readonly offset: number;
      readonly type: string;
      readonly payload: RoomEventBody["payload"];
      /** Unix seconds. */
      readonly timestamp: number;
      /** Of the payload as JSON, in characters. */
      readonly size: number;
    }
  | {
      readonly kind: "gap";
      readonly epoch: string | null;
      readonly from: number;
      readonly to: number;
      /** The epoch ended, and the numbers began again: `from` and `to`, which may be 0, are new ones. */
      readonly isRestart: boolean;
    };

/**
 * `joining`: not joined yet; `joined`: also while the connection is lost, for the client joins again
 * by itself; `left`: the server has ended it; `refused`: see the error.
 */
export type RoomStatus = "joining" | "joined" | "left" | "refused";

export interface RoomState {
  readonly target: RoomTarget;
  readonly status: RoomStatus;
  readonly error: ErrorBody | null;
  /** The room's name; null until a thread's is known. */
  readonly room: string | null;
  readonly epoch: string | null;
  /** The last offset; null before the room was joined. */
  readonly offset: number | null;
  /** After this offset, `items` has every event of the epoch, or a gap in its place. */
  readonly since: number;
  /** The newest events of a room, oldest first; empty for a thread. */
  readonly items: readonly RoomItem[];
  /** Of a thread. */
  readonly runs: ReadonlyMap<string, Run>;
  /** How often events may be missing: the history of a thread has to be read again. */
  readonly losses: number;
}

export interface RoomPosition {
  readonly epoch: string | null;
  readonly offset: number | null;
}

/** A room that a tab needs, and its state in the tab. */
export interface WantedRoom extends RoomPosition {
  readonly target: RoomTarget;
  /** The tab has just requested it: it is joined again if the server refused or ended it. */
  readonly isNew: boolean;
}

export const roomKey = (target: RoomTarget): string =>
  target.kind === "room" ? `room ${target.room}` : `thread ${viewName(target)}`;

/** The name of a watched thread in the view; a thread id has no "/". */
export const viewName = ({ thread_id, owner }: RoomTarget & { readonly kind: "thread" }): string =>
  owner === null ? thread_id : `${owner}/${thread_id}`;

export const isSamePosition = (a: RoomPosition, b: RoomPosition): boolean =>
  a.epoch === b.epoch && a.offset === b.offset;

/** @param position What is known of the room already. */
export const newRoom = (target: RoomTarget, { epoch, offset }: RoomPosition = { epoch: null, offset: null }): RoomState => ({
  target,
  status: "joining",
  error: null,
  room: target.kind === "room" ? target.room : null,
  epoch,
  offset,
  since: offset ?? 0,
  items: [],
  runs: new Map(),
  losses: 0,
});

/** The request to join, after what is known of the room; a thread with a loss is watched anew. */
export function joinMessage({ target, epoch, offset }: RoomState, isAnew: boolean, correlation_id: string): ControlRequest {
  const begin = target.kind === "room" && target.history ? { after: 0 } : {};
  const known = epoch === null ? {} : { epoch };
  const position = offset === null || isAnew ? begin : { after: offset, ...known };
  if (target.kind === "room") {
    return { type: "join_room", payload: { room: target.room, ...position }, correlation_id };
  }
  return { type: "watch_thread", payload: { ...threadOf(target), ...position }, correlation_id };
}

export const leaveMessage = (target: RoomTarget, correlation_id: string): ControlRequest =>
  target.kind === "room"
    ? { type: "leave_room", payload: { room: target.room }, correlation_id }
    : { type: "unwatch_thread", payload: threadOf(target), correlation_id };

const threadOf = ({ thread_id, owner }: RoomTarget & { readonly kind: "thread" }): { thread_id: string; owner?: string } =>
  owner === null ? { thread_id } : { thread_id, owner };

export function afterJoined(state: RoomState, joined: ControlPayloads["room_joined"]): RoomState {
  const { room, epoch, offset, verdict, runs = [] } = joined;
  const isFirst = state.offset === null;
  const isSame = state.epoch === epoch && (state.offset ?? 0) <= offset;
  const isExact = verdict === "exact";
  const gap = gapAfter(state, isSame, offset);
  return {
    ...state,
    status: "joined",
    error: null,
    room,
    epoch,
    offset,
    since: isExact && !isFirst ? state.since : offset,
    items: isExact || isFirst || state.target.kind === "thread" ? state.items : withItem(state.items, gap),
    runs: state.target.kind === "thread" ? joinedRuns(state, state.target, runs, isExact) : state.runs,
    losses: isExact && !isFirst ? state.losses : state.losses + 1,
  };
}

/** The runs as of the reply. Unlisted runs have ended; the history of an own thread has their ends. */
function joinedRuns(
  { runs: known }: RoomState,
  target: RoomTarget & { readonly kind: "thread" },
  listed: readonly WatchedRun[],
  isExact: boolean,
): ReadonlyMap<string, Run> {
  const runs = new Map(known);
  if (target.owner !== null) {
    for (const [id, { status }] of known) if (!isEnd(status)) runs.delete(id);
  }
  for (const one of listed) {
    const { agent_name } = one;
    const thread_id = viewName(target);
    const before = known.get(one.run_id);
    const resumed = afterResume(before, { ...one, thread_id, correlation_id: "" }, isExact);
    runs.set(one.run_id, { ...resumed, agent_name, correlation_id: null });
  }
  return runs;
}

/** The room after an event. The same object if it changes nothing. */
export function afterRoomEvent(state: RoomState, payload: ControlPayloads["room_event"]): RoomState {
  const { offset, epoch, event, timestamp, offset_from = offset } = payload;
  const isSame = state.epoch === epoch;
  const last = state.offset ?? 0;
  if (isSame && offset <= last) return state;
  // A new epoch that no gap announced.
  const isRestart = !isSame && state.epoch !== null;
  const isTorn = isSame && offset_from <= last;
  const losses = isRestart || isTorn ? state.losses + 1 : state.losses;
  const moved = { ...state, epoch, offset, losses, since: isRestart ? offset - 1 : state.since };
  if (state.target.kind === "thread") {
    const read = readRoomEvent(event);
    return read === null || isTorn ? moved : { ...moved, runs: withEvent(state, viewName(state.target), read, timestamp) };
  }
  const before = isRestart ? withItem(state.items, gapAfter(state, false, offset - 1)) : state.items;
  const { type, payload: content } = event;
  const size = JSON.stringify(content).length;
  const item: RoomItem = { kind: "event", epoch, offset, type, payload: content, timestamp, size };
  return { ...moved, items: withItem(before, item) };
}

function withEvent({ runs }: RoomState, thread_id: string, event: RoomEvent, timestamp: number): ReadonlyMap<string, Run> {
  if (event.type === "room_message") return runs;
  const { run_id } = event.payload;
  const before = runs.get(run_id) ?? { ...NEW_RUN, run_id, thread_id };
  // The rules of a session's events; a room's have no number.
  const after = event.type === "user_message" ? before : afterEvent(before, { ...event, timestamp, seq: 0 });
  const changed = new Map(runs).set(run_id, { ...after, thread_id });
  return event.type === "agent_completed" ? withoutOldest(changed) : changed;
}

function withoutOldest(runs: Map<string, Run>): ReadonlyMap<string, Run> {
  const ended = [...runs.values()].filter(({ status }) => isEnd(status));
  for (const { run_id } of ended.slice(0, -ENDED_RUNS)) runs.delete(run_id);
  return runs;
}

export function afterRoomGap(state: RoomState, { from, to }: ControlPayloads["room_gap"]): RoomState {
  // A new epoch has begun: the next event has its name.
  const isRestart = from <= (state.offset ?? 0);
  const gap: RoomItem = { kind: "gap", epoch: state.epoch, from, to, isRestart };
  return {
    ...state,
    epoch: isRestart ? null : state.epoch,
    offset: to,
    since: isRestart ? to : state.since,
    items: state.target.kind === "thread" ? state.items : withItem(state.items, gap),
    losses: state.losses + 1,
  };
}

export const afterLeft = (state: RoomState): RoomState => ({ ...state, status: "left" });

export const afterRefusal = (state: RoomState, error: ErrorBody, isFinal: boolean): RoomState => ({
  ...state,
  error,
  status: isFinal ? "refused" : state.status,
});

/** What is missing behind the position of a room, up to an offset of its epoch, or of the next one. */
const gapAfter = ({ epoch, offset }: RoomPosition, isSameEpoch: boolean, to: number): RoomItem => ({
  kind: "gap",
  epoch,
  from: isSameEpoch ? (offset ?? 0) + 1 : 1,
  to,
  isRestart: !isSameEpoch,
});

/** Adds an item at its place among those of its epoch; known items are not added again, and the oldest drop out. */
function withItem(items: readonly RoomItem[], item: RoomItem): readonly RoomItem[] {
  const end = endOf(item);
  const last = items.findLastIndex(({ epoch }) => epoch === item.epoch);
  let at = last < 0 ? items.length : last + 1;
  for (let other = items[at - 1]; other?.epoch === item.epoch && endOf(other) >= end; other = items[at - 1]) {
    if (endOf(other) === end && other.kind === item.kind) return items;
    at -= 1;
  }
  return newest([...items.slice(0, at), item, ...items.slice(at)]);
}

/** The newest items within both bounds, and at least one. */
function newest(items: readonly RoomItem[]): readonly RoomItem[] {
  let left = ROOM_CHARACTERS;
  const isFull = (item: RoomItem): boolean => (left -= item.kind === "event" ? item.size : 0) < 0;
  const last = items.findLastIndex(isFull);
  return items.slice(Math.max(Math.min(last + 1, items.length - 1), items.length - ROOM_ITEMS, 0));
}

const endOf = (item: RoomItem): number =>
  item.kind === "event" ? item.offset : item.isRestart ? Infinity : item.to;

/** The tab's own state of a room, completed by the state of the tab that has the connection. */
export function adopted(own: RoomState, other: RoomState): RoomState {
  if (own.offset === null || own.target.kind === "thread") return other;
  if (isSamePosition(own, other)) return { ...other, items: own.items, since: own.since };
  const { epoch, offset } = own;
  const isSame = epoch === other.epoch;
  // Whether the other list continues this one.
  const isLinked = isSame
    ? offset >= other.since
    : other.items.some((item) => item.kind === "gap" && item.isRestart && item.epoch === epoch);
  const begin = isLinked ? own.items : withItem(own.items, gapAfter(own, isSame, other.since));
  const since = isSame && isLinked ? Math.min(own.since, other.since) : other.since;
  return { ...other, items: other.items.reduce(withItem, begin), since };
}

/** The events and gaps that a state has and an earlier one had not, as their frames. */
export function newItems(before: RoomState, after: RoomState): readonly RoomItem[] {
  const known = new Set(before.items);
  return after.items.filter((item) => !known.has(item));
}

export type UserMessageEvent = RoomEvents["user_message"];
