/** The `events` door of a server in memory: server-sent events, long polls and POST. */

import type { Cancel, ServerMessage, StreamEvents, StreamRequest } from "../../src/index.js";
import type { FakeServer } from "./server.js";
import { FakeSocket } from "./socket.js";

export const DOOR = { events: { stream: "/ws/events", messages: "/ws/messages" } };

interface Frame {
  readonly seq: number | null;
  readonly message: ServerMessage;
}

/** A long poll, or a connection between two of them. */
interface Polled {
  readonly socket: FakeSocket;
  frames: Frame[];
  answer: (() => void) | null;
  closedWith: number | null;
}

export class FakeEvents {
  readonly requests: StreamRequest[] = [];
  /** The bodies of all POSTs, in the order of their arrival. */
  readonly posted: string[] = [];
  /** POSTs that are not answered yet. */
  openPosts = 0;
  mostOpenPosts = 0;
  /** True: a proxy collects an answer up to its end. */
  isBuffered = false;
  /** Answers that replace those of the server, each once; null: there is none. */
  answers: ({ status: number; body?: string; type?: string; retryAfter?: string } | null)[] = [];
  postStatus = 202;
  /** Milliseconds from a POST to its answer. */
  postTime = 5;
  /** Calls that each long poll repeats events that the client had already. */
  repeats = false;
  readonly #server: FakeServer;
  readonly #polled = new Map<string, Polled>();

  constructor(server: FakeServer) {
    this.#server = server;
  }

  /** The paths and queries of the requests for frames. */
  get streams(): URL[] {
    return this.requests.filter(({ method }) => method === "GET").map(({ url }) => new URL(url));
  }

  get polls(): URL[] {
    return this.streams.filter(({ searchParams }) => searchParams.has("wait"));
  }

  readonly stream = (request: StreamRequest, events: StreamEvents): Cancel => {
    this.requests.push(request);
    let isCancelled = false;
    const cancels: Cancel[] = [() => void (isCancelled = true)];
    const ifOpen = (run: () => void): void => {
      if (!isCancelled) run();
    };
    const guarded: StreamEvents = {
      head: (...head) => ifOpen(() => events.head(...head)),
      text: (piece) => ifOpen(() => events.text(piece)),
      ended: (isComplete) => ifOpen(() => events.ended(isComplete)),
    };
    const begin = (): void => ifOpen(() => this.#begin(request, guarded, cancels));
    cancels.push(this.#server.clock.timers.setTimeout(begin, request.method === "POST" ? 0 : this.#server.upgradeTime));
    return () => {
      for (const cancel of cancels) cancel();
    };
  };

  #begin(request: StreamRequest, events: StreamEvents, cancels: Cancel[]): void {
    const url = new URL(request.url);
    const own = request.method === "GET" ? this.answers.shift() : undefined;
    if (own === null || !this.#server.isUp) {
      events.ended(false);
    } else if (own !== undefined) {
      events.head(own.status, own.type ?? "application/json", own.retryAfter ?? null);
      events.text(own.body ?? "");
      events.ended(true);
    } else if (request.method === "POST") {
      this.#post(url, request, events);
    } else if (url.searchParams.has("wait")) {
      this.#poll(url, request, events, cancels);
    } else {
      this.#send(request, events, cancels);
    }
  }

  #bearer({ headers }: StreamRequest): string | undefined {
    return headers["Authorization"]?.replace("Bearer ", "");
  }

  #refuse(events: StreamEvents): void {
    events.head(401, "application/json", null);
    events.text(JSON.stringify({ code: "INVALID_TOKEN", error: "No.", help: "", timestamp: 1, recoverable: false }));
    events.ended(true);
  }

  #send(request: StreamRequest, events: StreamEvents, cancels: Cancel[]): void {
    const socket = new FakeSocket(request.url);
    let held = "";
    const write = (text: string): void => {
      if (this.isBuffered) held += text;
      else events.text(text);
    };
    const head = (): void => events.head(200, "text/event-stream; charset=utf-8", null);
    socket.onopen = () => this.isBuffered || head();
    socket.onmessage = ({ data }) => {
      const { seq } = JSON.parse(data as string) as { seq?: number };
      write(`${seq === undefined ? "" : `id: ${seq}\n`}data: ${data as string}\n\n`);
    };
    socket.onclose = ({ code }) => {
      if (code === 1006) {
        events.ended(false);
        return;
      }
      write(`event: close\ndata: {"code": ${code}, "reason": "r"}\n\n`);
      if (this.isBuffered) head();
      if (held !== "") events.text(held);
      events.ended(true);
    };
    cancels.push(() => socket.drop(1006));
    if (!this.#server.connect(socket, this.#bearer(request))) this.#refuse(events);
    else this.#server.sockets.push(socket);
  }

  #poll(url: URL, request: StreamRequest, events: StreamEvents, cancels: Cancel[]): void {
    const session = url.searchParams.get("session_id") ?? "";
    const last = Number(url.searchParams.get("last_seq") ?? "0");
    let polled = url.searchParams.has("resume") ? undefined : this.#polled.get(session);
    if (polled === undefined) {
      const socket = new FakeSocket(request.url);
      const made: Polled = { socket, frames: [], answer: null, closedWith: null };
      polled = made;
      socket.onmessage = ({ data }) => {
        const message = JSON.parse(data as string) as ServerMessage;
        made.frames.push({ seq: "seq" in message ? message.seq : null, message });
        made.answer?.();
      };
      socket.onclose = ({ code }) => {
        made.closedWith = code;
        made.answer?.();
      };
      if (!this.#server.connect(socket, this.#bearer(request))) {
        this.#refuse(events);
        return;
      }
      this.#server.sockets.push(socket);
      this.#polled.set(socket.session, made);
    } else {
      if (!this.repeats) polled.frames = polled.frames.filter(({ seq }) => seq === null || seq > last);
      const own = this.#server.sessions.get(session);
      if (own !== undefined) own.acknowledged = Math.max(own.acknowledged, last);
      while ((own?.events[0]?.seq ?? Infinity) <= last) own?.events.shift();
    }
    const from = polled;
    const answer = (): void => {
      from.answer = null;
      stop();
      events.head(200, "application/json", null);
      const frames = from.frames.map(({ message }) => message);
      from.frames = from.frames.filter(({ seq }) => seq !== null);
      const close = from.closedWith === null ? {} : { close: { code: from.closedWith, reason: "r" } };
      if (from.closedWith !== null) this.#polled.delete(from.socket.session);
      events.text(JSON.stringify({ frames, ...close }));
      events.ended(true);
    };
    const stop = this.#server.clock.timers.setTimeout(answer, Number(url.searchParams.get("wait")) * 1000);
    cancels.push(stop, () => void (from.answer = null));
    const isNew = from.frames.some(({ seq }) => seq === null || seq > last || this.repeats);
    if (isNew || from.closedWith !== null) answer();
    else from.answer = answer;
  }

  #post(url: URL, request: StreamRequest, events: StreamEvents): void {
    const session = this.#server.sessions.get(url.searchParams.get("session_id") ?? "");
    const socket = session?.socket;
    this.openPosts += 1;
    this.mostOpenPosts = Math.max(this.mostOpenPosts, this.openPosts);
    const isTaken = this.postStatus === 202 && socket?.state === "open";
    if (isTaken) {
      this.posted.push(request.body ?? "");
      socket.onData(request.body ?? "");
    }
    this.#server.clock.timers.setTimeout(() => {
      this.openPosts -= 1;
      events.head(isTaken ? 202 : this.postStatus === 202 ? 404 : this.postStatus, "", null);
      events.ended(true);
    }, this.postTime);
  }
}
