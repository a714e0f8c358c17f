/** The rooms and threads of the server in memory: numbered events, members by socket, a short history. */

import type {
  ClientMessage,
  ControlPayloads,
  EventPayloads,
  ListedThread,
  RoomEventBody,
  WatchedRun,
} from "../../src/index.js";
import type { FakeServer } from "./server.js";
import type { FakeSocket } from "./socket.js";

interface Stored {
  readonly offset: number;
  readonly event: RoomEventBody;
  readonly session: string | null;
}

interface Room {
  epoch: string;
  offset: number;
  events: Stored[];
  readonly members: Map<FakeSocket, string>;
  readonly keys: Map<string, number>;
}

type Of<T extends ClientMessage["type"]> = Extract<ClientMessage, { type: T }>;

const THREAD = "thread:";

export class FakeRooms {
  readonly #server: FakeServer;
  readonly #rooms = new Map<string, Room>();
  readonly listed = new Map<string, ListedThread>();
  /** What a join of these rooms is refused with. */
  readonly refusals = new Map<string, { readonly code: string; readonly retry_after_ms?: number }>();
  /** So many more messages to rooms are refused with this. */
  busy = { times: 0, code: "RATE_LIMIT_EXCEEDED", retry_after_ms: 100 };
  #epochs = 0;

  constructor(server: FakeServer) {
    this.#server = server;
  }

  room(name: string): Room {
    const known = this.#rooms.get(name);
    if (known !== undefined) return known;
    this.#epochs += 1;
    const room: Room = { epoch: `epoch-${this.#epochs}`, offset: 0, events: [], members: new Map(), keys: new Map() };
    this.#rooms.set(name, room);
    return room;
  }

  /** The sockets in a room that are open. */
  members(name: string): FakeSocket[] {
    return [...this.room(name).members.keys()].filter((socket) => socket.state === "open");
  }

  say(name: string, content: string, user_id = "bob"): number {
    return this.publish(name, { type: "room_message", payload: { user_id, content } });
  }

  publish(name: string, event: RoomEventBody, session: string | null = null): number {
    const room = this.room(name);
    room.offset += 1;
    const stored = { offset: room.offset, event, session };
    room.events.push(stored);
    for (const [socket, own] of room.members) if (session !== own) this.#deliver(socket, name, stored);
    return room.offset;
  }

  /** Events of a room are lost for the members, who are told. */
  lose(name: string, count: number): void {
    const room = this.room(name);
    const from = room.offset + 1;
    room.offset += count;
    for (const socket of room.members.keys()) {
      this.#server.control(socket, "room_gap", { room: name, from, to: room.offset });
    }
  }

  /** The history keeps only so many events. */
  trim(name: string, count: number): void {
    const room = this.room(name);
    room.events = count === 0 ? [] : room.events.slice(-count);
  }

  /** The numbers of a room begin again; `isTold`: the members are told. */
  restart(name: string, isTold: boolean): void {
    const room = this.room(name);
    this.#epochs += 1;
    Object.assign(room, { epoch: `epoch-${this.#epochs}`, offset: 0, events: [] });
    if (!isTold) return;
    for (const socket of room.members.keys()) this.#server.control(socket, "room_gap", { room: name, from: 1, to: 0 });
  }

  kick(name: string): void {
    const room = this.room(name);
    for (const socket of room.members.keys()) this.#server.control(socket, "room_left", { room: name });
    room.members.clear();
  }

  /** Publishes an event of a run in the room of its thread, if a socket watches it. */
  mirror(thread: string, type: string, payload: EventPayloads[keyof EventPayloads] | object, session: string | null): void {
    const name = `${THREAD}${thread}`;
    if (this.members(name).length === 0) return;
    this.publish(name, { type, payload: payload as RoomEventBody["payload"] }, session);
  }

  changed(thread_id: string, change: ControlPayloads["thread_changed"]["change"], socket?: FakeSocket, id?: string): void {
    const thread = this.listed.get(thread_id);
    const payload = { thread_id, change, ...(thread === undefined || change === "deleted" ? {} : { thread }) };
    for (const one of this.#server.open) {
      this.#server.control(one, "thread_changed", payload, one === socket ? id : undefined);
    }
  }

  list(thread_id: string, more: Partial<ListedThread> = {}): void {
    const at = this.#server.clock.now / 1000;
    const known = this.listed.get(thread_id) ?? {
      thread_id,
      room: `${THREAD}${thread_id}`,
      title: thread_id,
      created_at: at,
      updated_at: at,
      runs_active: 0,
      asks: false,
      unread: 0,
    };
    this.listed.set(thread_id, { ...known, updated_at: at, ...more });
  }

  /** Answers a message if it is about rooms or threads. */
  take(socket: FakeSocket, message: ClientMessage): void {
    const id = message.correlation_id;
    const server = this.#server;
    switch (message.type) {
      case "join_room":
        this.#join(socket, message.payload.room, message.payload, id);
        break;
      case "watch_thread": {
        const { thread_id, owner } = message.payload;
        this.#join(socket, `${THREAD}${owner === undefined ? "" : `${owner}-`}${thread_id}`, message.payload, id);
        break;
      }
      case "leave_room":
      case "unwatch_thread": {
        const room = message.type === "leave_room" ? message.payload.room : `${THREAD}${message.payload.thread_id}`;
        this.room(room).members.delete(socket);
        server.control(socket, "room_left", { room }, id);
        break;
      }
      case "room_message":
        this.#publish(socket, message);
        break;
      case "get_presence":
        server.control(socket, "presence", { room: message.payload.room, members: [{ user_id: "bob", connections: 2 }] }, id);
        break;
      case "list_threads":
        this.#list(socket, message);
        break;
      case "rename_thread":
        this.#change(socket, message.payload.thread_id, { title: message.payload.title }, "renamed", id);
        break;
      case "mark_read":
        this.#change(socket, message.payload.thread_id, { unread: 0 }, "updated", id);
        break;
      case "delete_thread":
        if (this.listed.delete(message.payload.thread_id)) this.changed(message.payload.thread_id, "deleted", socket, id);
        else server.error(socket, "THREAD_NOT_FOUND", id);
        break;
      case "feedback":
        this.changed("main", "updated", socket, id);
        break;
      default:
    }
  }

  #change(
    socket: FakeSocket,
    thread: string,
    more: Partial<ListedThread>,
    change: "renamed" | "updated",
    id: string | undefined,
  ): void {
    const known = this.listed.get(thread);
    if (known === undefined) {
      this.#server.error(socket, "THREAD_NOT_FOUND", id);
      return;
    }
    this.listed.set(thread, { ...known, ...more });
    this.changed(thread, change, socket, id);
  }

  #list(socket: FakeSocket, { payload, correlation_id }: Of<"list_threads">): void {
    const { limit = 50, before, query } = payload;
    const all = [...this.listed.values()].sort((a, b) => b.updated_at - a.updated_at);
    const found = all.filter(({ title }) => query === undefined || title.includes(query));
    const after = before === undefined ? 0 : found.findIndex(({ thread_id }) => thread_id === before) + 1;
    const threads = found.slice(after, after + limit);
    this.#server.control(socket, "thread_list", { threads, has_more: after + limit < found.length }, correlation_id);
  }

  #join(socket: FakeSocket, name: string, { after, epoch }: { after?: number; epoch?: string }, id = ""): void {
    const refusal = this.refusals.get(name);
    if (refusal !== undefined) {
      const { code, ...more } = refusal;
      this.#server.error(socket, code, id, more);
      return;
    }
    const room = this.room(name);
    const oldest = room.events[0]?.offset ?? room.offset + 1;
    const isKnown = epoch === undefined || epoch === room.epoch;
    const isExact = after !== undefined && isKnown && after >= oldest - 1 && after <= room.offset;
    const verdict = after === undefined ? "new" : isExact ? "exact" : "gap";
    const offset = after === undefined ? room.offset : isExact ? after : oldest - 1;
    const replay = room.events.filter((one) => one.offset > offset);
    const runs = name.startsWith(THREAD) ? { runs: this.#runs(name.slice(THREAD.length), replay) } : {};
    room.members.set(socket, socket.session);
    const joined = { room: name, epoch: room.epoch, offset, verdict, replayed: replay.length, ...runs };
    this.#server.control(socket, "room_joined", joined, id);
    for (const one of replay) if (one.session !== socket.session) this.#deliver(socket, name, one);
  }

  /** The runs of a thread that have not ended, as they were before the events that follow. */
  #runs(thread: string, without: readonly Stored[]): WatchedRun[] {
    const ends = new Set(
      without.filter(({ event }) => event.type === "agent_completed").map(({ event }) => event.payload["run_id"]),
    );
    return [...this.#server.runs.values()]
      .filter((run) => run.thread === thread && (run.end === null || ends.has(run.id)))
      .map((run) => {
        const later = without
          .filter(({ event }) => event.type === "partial_result" && event.payload["run_id"] === run.id)
          .map(({ event }) => contentOf(event.payload))
          .join("");
        const questions = run.questions.filter(({ outcome }) => outcome === undefined);
        const content = run.text.slice(0, run.text.length - later.length);
        return { run_id: run.id, message_id: `msg-${run.id}`, agent_name: "echo", status: "running", content, questions };
      });
  }

  #publish(socket: FakeSocket, { payload, correlation_id = "" }: Of<"room_message">): void {
    const { room: name, content } = payload;
    if (this.busy.times > 0) {
      this.busy.times -= 1;
      this.#server.error(socket, this.busy.code, correlation_id, { retry_after_ms: this.busy.retry_after_ms });
      return;
    }
    const room = this.room(name);
    const known = room.keys.get(correlation_id);
    const session = this.#server.sessions.get(socket.session);
    const offset = known ?? this.publish(name, { type: "room_message", payload: { user_id: session?.user ?? "", content } });
    room.keys.set(correlation_id, offset);
    const status = known === undefined ? "accepted" : "duplicate";
    this.#server.control(socket, "room_confirmed", { room: name, offset, status }, correlation_id);
  }

  #deliver(socket: FakeSocket, room: string, { offset, event }: Stored): void {
    const timestamp = this.#server.clock.now / 1000;
    const { epoch } = this.room(room);
    socket.deliver({ type: "room_event", payload: { room, offset, epoch, event, timestamp }, timestamp });
  }
}

/** The content of an event, if it is a text. */
export const contentOf = ({ content }: RoomEventBody["payload"]): string =>
  typeof content === "string" ? content : JSON.stringify(content);
