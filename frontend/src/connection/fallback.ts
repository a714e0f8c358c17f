/**
 * A socket for pages whose WebSockets do not get through: frames come as server-sent events, or as
 * answers to long polls, and are sent one after the other by POST.
 *
 * To the line it is an open WebSocket from the first frame on. It does not repeat a request that
 * failed: it closes, and the client reconnects and resumes, as after any lost connection.
 */

import type { HttpAnswer, Ports, Refusal, Socket } from "../ports.js";
import { isObject } from "../protocol/check.js";
import { SUBPROTOCOL } from "../protocol/messages.js";
import { EventStreamReader } from "../protocol/sse.js";
import { FIRST_EVENT_WITHIN } from "../core/transports.js";
import { ANSWER_WITHIN, parse, refusalIn, type Address, type EventsEndpoints } from "./opening.js";
import { SHORTEST_GAP } from "./retry.js";
import { NamedTimers } from "./timers.js";

const WAIT = 25; // seconds that a poll waits for a frame: proxies give up after 30 or later
const POLL_GAP = 1_000; // ms between the beginnings of polls that deliver nothing: an answer must not drive a loop
const LOST = 1006;
/** The close codes that statuses of a POST stand for. */
const CLOSES: Readonly<Record<number, number>> = { 401: 4401, 413: 1009 };

export interface EventsAddress extends Omit<Address, "protocols">, EventsEndpoints {
  readonly transport: "sse" | "long-poll";
  /** Returns the newest token. */
  readonly token: () => string | null;
}

type State = 0 | 1 | 2 | 3; // as `readyState` of a WebSocket

export class FallbackSocket implements Socket {
  readonly protocol = SUBPROTOCOL;
  readyState: State = 0;
  onopen: Socket["onopen"] = null;
  onmessage: Socket["onmessage"] = null;
  onclose: Socket["onclose"] = null;
  onerror: Socket["onerror"] = null;
  readonly #ports: Ports;
  readonly #address: EventsAddress;
  readonly #timers: NamedTimers;
  #session = "";
  /** The number of the last event that was passed on. */
  #last = 0;
  /** Frames that wait for the answer to the one before. */
  readonly #queue: string[] = [];
  /** The acknowledgement that waits: the last one stands for those before. */
  #ack: string | undefined;
  #isPosting = false;
  #isPaused = false;
  #isPolling = false;
  #cancelRead: () => void = () => undefined;
  #cancelPost: () => void = () => undefined;

  constructor(ports: Ports, address: EventsAddress) {
    this.#ports = ports;
    this.#address = address;
    this.#timers = new NamedTimers(ports.timers);
    const { transport, url, hasTicket } = address;
    if (transport === "sse") this.#stream();
    // Without `resume` the server may go on with the polls before, whose frames may be lost.
    else this.#poll(url.includes("session_id=") ? `${url}&resume=1` : url, hasTicket);
  }

  send(data: string): void {
    if (this.readyState !== 1) return;
    const frame = parse(data);
    if (!isObject(frame) || frame["type"] !== "ack") this.#queue.push(data);
    // A poll acknowledges by itself.
    else if (this.#address.transport === "sse") this.#ack = data;
    this.#post();
  }

  /** A normal close sends first what waits. */
  close(code = LOST): void {
    if (this.readyState >= 2) return;
    const waits = this.readyState === 1 && code === 1000 && this.#isPosting;
    this.readyState = 2;
    if (waits) this.#timers.set("close", ANSWER_WITHIN, () => this.#end(code));
    // Like a WebSocket, it reports its end later.
    else void Promise.resolve().then(() => this.#end(code));
  }

  pause(): void {
    this.#isPaused = true;
  }

  resume(): void {
    this.#isPaused = false;
    if (this.#address.transport === "long-poll" && this.readyState === 1) this.#pollNext();
  }

  // Receiving.

  #stream(): void {
    const reader = new EventStreamReader();
    this.#timers.set("first", FIRST_EVENT_WITHIN, () => this.#end(LOST));
    const text = (piece: string): void => {
      for (const { type, data, id } of reader.read(piece)) {
        if (this.readyState === 3) return;
        if (type === "close") this.#end(closeCode(parse(data)));
        else if (type === "message") this.#receive(data, this.readyState === 0 ? parse(data) : null, id === null ? null : Number(id));
      }
    };
    const { url, hasTicket } = this.#address;
    this.#get(url, hasTicket, "text/event-stream", text, () => this.#end(LOST));
  }

  #poll(url: string, hasTicket: boolean): void {
    const startedAt = this.#timers.now();
    const before = this.#last;
    let body = "";
    this.#isPolling = true;
    this.#timers.set("poll", WAIT * 1000 + ANSWER_WITHIN, () => this.#end(LOST));
    const text = (piece: string): void => void (body += piece);
    const ended = (): void => {
      this.#isPolling = false;
      this.#timers.cancel("poll");
      const answer = parse(body);
      const frames = isObject(answer) ? answer["frames"] : null;
      if (!isObject(answer) || !Array.isArray(frames)) {
        this.#end(LOST);
        return;
      }
      let gap = POLL_GAP;
      for (const frame of frames as readonly unknown[]) {
        if (this.readyState === 3) return;
        const seq = isObject(frame) && typeof frame["seq"] === "number" ? frame["seq"] : null;
        if (seq === null) gap = SHORTEST_GAP;
        this.#receive(JSON.stringify(frame), frame, seq);
      }
      if ("close" in answer) this.#end(closeCode(answer["close"]));
      const pause = this.#last > before ? 0 : startedAt + gap - this.#timers.now();
      if (pause > 0) this.#timers.set("poll", pause, () => this.#pollNext());
      else this.#pollNext();
    };
    this.#get(`${url}${url.includes("?") ? "&" : "?"}wait=${WAIT}`, hasTicket, "application/json", text, ended);
  }

  #pollNext(): void {
    if (this.readyState === 3 || this.#isPaused || this.#isPolling) return;
    // The first answer had no frame that opens the connection.
    if (this.readyState === 0) this.#end(LOST);
    else this.#poll(`${this.#address.stream}?${this.#query}&last_seq=${this.#last}`, false);
  }

  #get(url: string, hasTicket: boolean, type: string, text: (piece: string) => void, ended: () => void): void {
    let refused: HttpAnswer | null = null;
    const headers = { Accept: type, ...(hasTicket ? {} : this.#credential) };
    this.#cancelRead = this.#ports.stream?.({ method: "GET", url, headers }, {
      head: (status, contentType, retryAfter) => {
        if (status !== 200) refused = { status, body: "", retryAfter };
        else if (!contentType.startsWith(type)) this.#end(LOST);
      },
      text: (piece) => {
        if (refused !== null) refused = { ...refused, body: refused.body + piece };
        else if (this.readyState !== 3) text(piece);
      },
      ended: (isComplete) => {
        if (refused !== null) this.#end(LOST, refusalIn(this.#ports, refused));
        else if (!isComplete) this.#end(LOST);
        else if (this.readyState !== 3) ended();
      },
    }) ?? this.#cancelRead;
  }

  #receive(data: string, frame: unknown, seq: number | null): void {
    if (isObject(frame) && frame["type"] === "connection_established") {
      // Later than first, the server has connected the session anew: so does the client, in order.
      if (this.readyState !== 0 || !this.#open(frame["payload"])) {
        this.#end(LOST);
        return;
      }
    }
    if (seq !== null) {
      if (!(seq > this.#last)) return; // delivered again
      this.#last = seq;
    }
    this.onmessage?.({ data });
  }

  #open(payload: unknown): boolean {
    const { session_id, resume } = isObject(payload) ? payload : {};
    const last = isObject(resume) ? resume["last_seq"] : null;
    if (typeof session_id !== "string" || typeof last !== "number") return false;
    this.#timers.cancel("first");
    this.#session = session_id;
    this.#last = last;
    this.readyState = 1;
    this.onopen?.({});
    return true;
  }

  // Sending.

  #post(): void {
    if (this.#isPosting || this.readyState === 3) return;
    const body = this.#queue.shift() ?? this.#ack;
    if (body === this.#ack) this.#ack = undefined;
    if (body === undefined) {
      if (this.readyState === 2) this.#end(1000);
      return;
    }
    this.#isPosting = true;
    this.#timers.set("post", ANSWER_WITHIN, () => this.#end(LOST));
    const headers = { "Content-Type": "application/json", ...this.#credential };
    const url = `${this.#address.messages}?${this.#query}`;
    let status = 0;
    this.#cancelPost = this.#ports.stream?.({ method: "POST", url, headers, body }, {
      head: (answered) => void (status = answered),
      text: () => undefined,
      ended: () => {
        this.#isPosting = false;
        this.#timers.cancel("post");
        if (status === 202) this.#post();
        else this.#end(CLOSES[status] ?? LOST);
      },
    }) ?? this.#cancelPost;
  }

  get #query(): string {
    return `session_id=${encodeURIComponent(this.#session)}`;
  }

  get #credential(): Record<string, string> {
    const token = this.#address.token();
    return token === null ? {} : { Authorization: `Bearer ${token}` };
  }

  #end(code: number, refusal: Refusal | null = null): void {
    if (this.readyState === 3) return;
    this.readyState = 3;
    this.#timers.cancelAll();
    this.#cancelRead();
    this.#cancelPost();
    this.onclose?.({ code, ...(refusal === null ? {} : { refusal }) });
  }
}

function closeCode(close: unknown): number {
  const code = isObject(close) ? close["code"] : null;
  return typeof code === "number" ? code : LOST;
}
