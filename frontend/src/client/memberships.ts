/**
 * The rooms of a connection, for all tabs that share it: each is joined once for all of them,
 * joined again on each new line with what is known of it, and left when no tab wants it any more.
 *
 * The tab that has the connection runs it, and reports to all tabs, itself included: `room` with a
 * frame, and the position before it; `room_state` with the whole state, after each reply.
 */

import { resendDelay, Spacing } from "../core/backoff.js";
import {
  afterJoined,
  afterLeft,
  afterRefusal,
  afterRoomEvent,
  afterRoomGap,
  isSamePosition,
  joinMessage,
  leaveMessage,
  newRoom,
  roomKey,
  type RoomPosition,
  type RoomState,
  type RoomTarget,
  type WantedRoom,
} from "../core/rooms.js";
import { LATER } from "../core/retry-rules.js";
import type { Update } from "../core/updates.js";
import { NamedTimers } from "../connection/timers.js";
import type { ControlRequest, ErrorBody, ServerMessage, ServerMessageOf } from "../protocol/messages.js";
import type { Ports } from "../ports.js";

const AT_ONCE = 20; // joins that wait for their reply

/** What it needs of the connection. */
export interface RequestSender {
  /** False if too many requests are open. */
  request(id: string, message: ControlRequest): boolean;
  /** The reply to a request is no longer needed. */
  forget(id: string): void;
}

interface Membership {
  state: RoomState;
  readonly tabs: Set<string>;
  /** `due`: to be joined; `asked`: waits for the reply; `done`: joined, or refused on this line. */
  step: "due" | "asked" | "done";
  /** Of the request whose reply is awaited. */
  request: string | null;
  /** A thread with a loss: joined without a position. */
  isAnew: boolean;
  /** Of joins after losses. */
  readonly spacing: Spacing;
  rejections: number;
}

type RoomFrame = ServerMessageOf<"room_event" | "room_gap" | "room_left">;

export class Memberships {
  readonly #ports: Pick<Ports, "uniqueId">;
  readonly #timers: NamedTimers;
  readonly #connection: RequestSender;
  readonly #report: (update: Update) => void;
  readonly #rooms = new Map<string, Membership>();
  #isAttached = false;

  /** @param report Reports to all tabs. */
  constructor(
    ports: Pick<Ports, "timers" | "uniqueId">,
    connection: RequestSender,
    report: (update: Update) => void,
  ) {
    this.#ports = ports;
    this.#timers = new NamedTimers(ports.timers);
    this.#connection = connection;
    this.#report = report;
  }

  /** Sets the rooms that a tab needs. */
  want(tab: string, rooms: readonly WantedRoom[]): void {
    const keys = new Set(rooms.map(({ target }) => roomKey(target)));
    for (const [key, room] of this.#rooms) if (!keys.has(key)) this.#release(tab, key, room);
    for (const wanted of rooms) this.#want(tab, wanted);
    this.#join();
  }

  /** Forgets everything: another tab has the connection now. */
  clear(): void {
    this.#timers.cancelAll();
    this.#rooms.clear();
    this.#isAttached = false;
  }

  /** Returns the updates for the tabs after an update of the connection. */
  route(update: Update): readonly Update[] {
    if (update.kind !== "message") return [update];
    const { message } = update;
    if (message.type === "connection_established") return [update];
    const asked = [...this.#rooms].find(([, { request }]) => request !== null && request === message.correlation_id);
    if (asked !== undefined) {
      this.#answered(...asked, message);
      return [];
    }
    if (message.type !== "room_event" && message.type !== "room_gap" && message.type !== "room_left") return [update];
    // The reply to a request to leave.
    if (message.correlation_id !== undefined) return [update];
    return [...this.#rooms].flatMap(([key, room]) =>
      room.state.room === message.payload.room && room.state.offset !== null ? this.#frame(key, room, message) : [],
    );
  }

  /** A line is established, and has no rooms yet. */
  attach(): void {
    this.#isAttached = true;
    this.#timers.cancelAll();
    for (const room of this.#rooms.values()) {
      if (room.request !== null) this.#connection.forget(room.request);
      room.request = null;
      room.rejections = 0;
      room.step = room.state.status === "left" ? "done" : "due";
    }
    this.#join();
  }

  #want(tab: string, { target, epoch, offset, isNew }: WantedRoom): void {
    const key = roomKey(target);
    const known = this.#rooms.get(key);
    if (known === undefined) {
      const state = newRoom(target, { epoch, offset });
      this.#rooms.set(key, { state, tabs: new Set([tab]), step: "due", request: null, isAnew: false, spacing: new Spacing(), rejections: 0 });
      return;
    }
    known.tabs.add(tab);
    const { state } = known;
    if (isNew && (state.status === "left" || state.status === "refused")) {
      known.state = { ...state, status: "joining", error: null };
      known.step = "due";
    }
    if (target.kind === "room" && state.target.kind === "room") this.#extend(known, target, { epoch, offset }, state);
    if (!isSamePosition(known.state, { epoch, offset }) || known.state.status !== "joined") this.#tell(key, known);
  }

  /** Joins again for a tab that needs earlier events than the others. */
  #extend(room: Membership, { history }: RoomTarget & { kind: "room" }, wanted: RoomPosition, state: RoomState): void {
    const { epoch, offset, since } = state;
    if (history && state.target.kind === "room" && !state.target.history) {
      room.state = { ...state, target: { ...state.target, history }, offset: null };
    } else if (wanted.offset !== null && wanted.epoch === epoch && offset !== null && wanted.offset < since) {
      room.state = { ...state, offset: wanted.offset, since: wanted.offset };
    } else {
      return;
    }
    if (room.request !== null) this.#connection.forget(room.request);
    room.request = null;
    room.step = "due";
  }

  #release(tab: string, key: string, room: Membership): void {
    if (!room.tabs.delete(tab) || room.tabs.size > 0) return;
    this.#rooms.delete(key);
    this.#timers.cancel(key);
    const { state, step, request } = room;
    const isShared = [...this.#rooms.values()].some((other) => other.state.room === state.room);
    if (request !== null) this.#connection.forget(request);
    const isMember = step === "asked" || (step === "done" && state.status === "joined");
    if (!this.#isAttached || !isMember || (isShared && state.room !== null)) return;
    const id = this.#ports.uniqueId();
    this.#connection.request(id, leaveMessage(state.target, id));
  }

  #join(): void {
    if (!this.#isAttached) return;
    let asked = [...this.#rooms.values()].filter(({ step }) => step === "asked").length;
    for (const room of this.#rooms.values()) {
      if (room.step !== "due" || asked >= AT_ONCE) continue;
      const id = this.#ports.uniqueId();
      room.request = id;
      room.step = "asked";
      asked += 1;
      if (this.#connection.request(id, joinMessage(room.state, room.isAnew, id))) continue;
      room.request = null;
      room.step = "due";
      this.#timers.set("join", resendDelay(0, undefined), () => this.#join());
      return;
    }
  }

  #answered(key: string, room: Membership, message: ServerMessage): void {
    room.request = null;
    room.step = "done";
    if (message.type === "room_joined") {
      room.state = afterJoined(room.state, message.payload);
      room.isAnew = false;
      room.rejections = 0;
    } else if (message.type === "error") {
      this.#refused(key, room, message.payload);
    }
    this.#tell(key, room);
    this.#join();
  }

  #refused(key: string, room: Membership, error: ErrorBody): void {
    // The other errors are final for this line.
    const isFinal = !LATER.has(error.code);
    room.state = afterRefusal(room.state, error, isFinal && error.code !== "SERVER_DRAINING");
    if (isFinal) return;
    const delay = resendDelay(room.rejections, error.retry_after_ms);
    room.rejections += 1;
    this.#timers.set(key, delay, () => {
      room.step = "due";
      this.#join();
    });
  }

  #frame(key: string, room: Membership, message: RoomFrame): readonly Update[] {
    const { state } = room;
    const before = { epoch: state.epoch, offset: state.offset };
    room.state = afterFrame(state, message);
    const update: Update = { kind: "room", key, before, message };
    if (state.target.kind === "thread" && room.state.losses > state.losses && room.step === "done") {
      room.isAnew = true;
      this.#joinAnew(key, room);
    }
    return [update];
  }

  /** A server that answers each join with another loss must not drive a loop. */
  #joinAnew(key: string, room: Membership): void {
    const now = this.#timers.now();
    const join = (): void => {
      room.spacing.done(this.#timers.now());
      room.step = "due";
      this.#join();
    };
    const delay = room.spacing.delay(now);
    if (delay === 0) join();
    else if (!this.#timers.has(key)) this.#timers.set(key, delay, join);
  }

  #tell(key: string, { state }: Membership): void {
    this.#report({ kind: "room_state", key, state });
  }
}

export function afterFrame(state: RoomState, message: RoomFrame): RoomState {
  switch (message.type) {
    case "room_event":
      return afterRoomEvent(state, message.payload);
    case "room_gap":
      return afterRoomGap(state, message.payload);
    case "room_left":
      return afterLeft(state);
  }
}
