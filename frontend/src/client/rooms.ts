/** The rooms and threads that the components of this tab follow. */

import {
  adopted,
  isSamePosition,
  newItems,
  newRoom,
  roomKey,
  viewName,
  type RoomItem,
  type RoomState,
  type RoomTarget,
  type WantedRoom,
} from "../core/rooms.js";
import type { Update } from "../core/updates.js";
import { NamedTimers } from "../connection/timers.js";
import { readRoomEvent } from "../protocol/decode.js";
import type { ServerMessage } from "../protocol/messages.js";
import type { Cancel, Ports } from "../ports.js";
import { afterFrame } from "./memberships.js";
import type { ThreadEvents } from "./thread-events.js";

const LINGER = 1_000; // ms: a page that changes its components leaves and joins within that

export type RoomUpdate = Extract<Update, { readonly kind: "room" | "room_state" }>;

export interface RoomsOwner {
  /** Sends the rooms of this tab to the tab with the connection. */
  want(rooms: readonly WantedRoom[]): void;
  /** A message for the application's handlers. */
  message(message: ServerMessage): void;
  changed(): void;
}

interface Use {
  target: RoomTarget;
  users: number;
  isNew: boolean;
}

export class Rooms {
  readonly #timers: NamedTimers;
  readonly #events: ThreadEvents;
  readonly #owner: RoomsOwner;
  readonly #uses = new Map<string, Use>();
  #states: ReadonlyMap<string, RoomState> = new Map();
  /** The last announcement, so that a lost answer is not requested again with every frame. */
  readonly #asked = new Set<string>();

  constructor(ports: Pick<Ports, "timers">, events: ThreadEvents, owner: RoomsOwner) {
    this.#timers = new NamedTimers(ports.timers);
    this.#events = events;
    this.#owner = owner;
  }

  /** The rooms by their keys: another map after each change. */
  get states(): ReadonlyMap<string, RoomState> {
    return this.#states;
  }

  /** The rooms that this tab needs. */
  get wanted(): readonly WantedRoom[] {
    return [...this.#uses].map(([key, { target, isNew }]) => {
      const { epoch, offset } = this.#states.get(key) ?? newRoom(target);
      return { target, epoch, offset, isNew };
    });
  }

  isWatched(threadId: string): boolean {
    const state = this.#states.get(roomKey({ kind: "thread", thread_id: threadId, owner: null }));
    return state !== undefined && state.status !== "refused";
  }

  /** Follows a room until the returned function is called by all that follow it. */
  join(target: RoomTarget): Cancel {
    const key = roomKey(target);
    const before = this.#uses.get(key);
    const status = this.#states.get(key)?.status;
    const mayRetry = status === "left" || status === "refused";
    const hasHistory = target.kind === "room" && target.history;
    const needsMore = before !== undefined && hasHistory && before.target.kind === "room" && !before.target.history;
    const use: Use = before ?? { target, users: 0, isNew: true };
    use.users += 1;
    this.#timers.cancel(key);
    if (needsMore) use.target = target;
    if (before === undefined) {
      this.#uses.set(key, use);
      this.#set(key, newRoom(target));
    }
    if (before === undefined || mayRetry || needsMore) {
      use.isNew = true;
      this.announce();
      use.isNew = false;
    }
    let isOver = false;
    return () => {
      if (isOver) return;
      isOver = true;
      use.users -= 1;
      if (use.users === 0 && this.#uses.has(key)) this.#timers.set(key, LINGER, () => this.#leave(key));
    };
  }

  /** Sends the rooms and positions of this tab to the tab with the connection. */
  announce(): void {
    this.#owner.want(this.wanted);
  }

  apply(update: RoomUpdate): void {
    const { key } = update;
    const state = this.#states.get(key);
    if (state === undefined) return;
    if (update.kind === "room_state") {
      this.#asked.delete(key);
      this.#adopt(key, state, update.state);
    } else if (isSamePosition(state, update.before)) {
      this.#frame(key, state, update);
    } else if (!this.#asked.has(key)) {
      this.#asked.add(key);
      this.announce();
    }
  }

  /** Another user is logged in: nothing of the rooms so far is shown. */
  reset(): void {
    this.#asked.clear();
    for (const [key, { target }] of this.#uses) this.#set(key, newRoom(target));
  }

  close(): void {
    this.#timers.cancelAll();
    this.#uses.clear();
  }

  #leave(key: string): void {
    const use = this.#uses.get(key);
    if (use === undefined) return;
    this.#uses.delete(key);
    const states = new Map(this.#states);
    states.delete(key);
    this.#states = states;
    if (use.target.kind === "thread") this.#events.watched(viewName(use.target), null);
    this.announce();
    this.#owner.changed();
  }

  #adopt(key: string, before: RoomState, other: RoomState): void {
    const after = adopted(before, other);
    const isBehind = before.offset !== null && !isSamePosition(before, other);
    this.#set(key, after);
    const { target } = after;
    const isRefused = after.status === "refused" && before.status !== "refused";
    // Without the live events the history is all there is.
    if (isRefused || (after.offset !== null && (after.losses !== before.losses || isBehind))) this.#reload(target);
    if (before.offset !== null) for (const item of newItems(before, after)) this.#tell(after, item);
    this.#owner.changed();
  }

  #frame(key: string, before: RoomState, { message }: RoomUpdate & { kind: "room" }): void {
    const after = afterFrame(before, message);
    this.#set(key, after);
    const { target } = after;
    if (target.kind === "thread" && message.type === "room_event" && after !== before) {
      const event = readRoomEvent(message.payload.event);
      if (event !== null) this.#events.event(viewName(target), event, message.payload.timestamp);
    }
    this.#owner.changed();
    if (after !== before) this.#owner.message(message);
  }

  /** Hands an event or a gap to the application that this tab has not received as a frame. */
  #tell({ room }: RoomState, item: RoomItem): void {
    const timestamp = item.kind === "event" ? item.timestamp : this.#timers.now() / 1000;
    const name = room ?? "";
    if (item.kind === "gap") {
      const { from, to } = item;
      this.#owner.message({ type: "room_gap", payload: { room: name, from, to }, timestamp });
    } else {
      const { epoch, offset, type, payload } = item;
      const event = { room: name, offset, epoch, event: { type, payload }, timestamp };
      this.#owner.message({ type: "room_event", payload: event, timestamp });
    }
  }

  #reload(target: RoomTarget): void {
    if (target.kind === "thread" && target.owner === null) this.#events.reload(target.thread_id);
  }

  #set(key: string, state: RoomState): void {
    if (state.target.kind === "thread" && this.#states.get(key)?.runs !== state.runs) {
      this.#events.watched(viewName(state.target), state.runs);
    }
    this.#states = new Map(this.#states).set(key, state);
  }
}
