/**
 * One WebSocket, from its creation to its end: decodes frames, answers heartbeats, and detects a
 * socket that no longer delivers anything. It never reconnects; it reports its end once.
 *
 * A browser does not report that a line is dead. So the line is probed if a heartbeat is missing, or
 * if nothing at all arrives after a message, and ends if the probe is not answered.
 */

import type { Unreadable } from "../protocol/decode.js";
import { encode } from "../protocol/encode.js";
import {
  SUBPROTOCOL,
  SUBPROTOCOL_2,
  type ClientMessage,
  type ServerMessage,
  type ServerMessageOf,
} from "../protocol/messages.js";
import { FrameReader } from "../protocol/reader.js";
import type { Transport } from "../core/snapshot.js";
import type { TransportAttempt } from "../core/transports.js";
import type { Refusal, Socket, Timers } from "../ports.js";
import { ANSWER_WITHIN } from "./opening.js";
import { NamedTimers } from "./timers.js";

const OPEN = 1; // `readyState` of a WebSocket
const LOST = 1006; // the close code if the other side sent none
const LATE_INTERVALS = 1.2; // heartbeat intervals: a heartbeat is missing, the line is probed
const REPLY_WITHIN = 3_000; // ms after a message without any answer: the line is probed
const PROBE_WITHIN = 5_000; // ms to answer a probe
const UPLOAD_RATE = 16; // bytes in a ms: a message that is still on its way over a slow line is no silence
const PROBE_ID = "netra-probe"; // the correlation id of a probe, whose answer is for no application
const HELD = 10_000; // numbered frames; a server sends a tenth of that without an acknowledgement
const CLOSE_WITHIN = 1_000; // ms for the server's half of the closing handshake

/** The server need not answer these. */
const UNANSWERED: ReadonlySet<ClientMessage["type"]> = new Set(["ack", "pong"]);

export interface LineEvents {
  /** A frame arrived. */
  received(): void;
  /** The frame that arrived was passed on. */
  handled(): void;
  established(message: ServerMessageOf<"connection_established">): void;
  message(message: ServerMessage): void;
  unreadable(frame: Unreadable): void;
  sent(message: ClientMessage): void;
  /** The socket closed, or did not open in time. */
  closed(code: number, refusal?: Refusal): void;
  /** The socket is open, and delivers nothing. */
  silent(): void;
  /** The server broke the protocol: no later frame of this socket can be trusted. */
  outOfOrder(fault: string): void;
}

export class Line {
  readonly #socket: Socket;
  readonly #attempt: TransportAttempt;
  readonly #timers: NamedTimers;
  readonly #events: LineEvents;
  readonly #reader: FrameReader;
  #isEstablished = false;
  #isEnded = false;
  #heartbeatInterval = Infinity;
  #heardAt = 0;
  /** When the first message was sent that nothing has arrived after; null if there is none. */
  #askedAt: number | null = null;
  /** The characters and bytes that were sent since a frame arrived. */
  #unheard = 0;
  /** Numbered frames that are held back; null if they are passed on as they arrive. */
  #held: (() => void)[] | null = null;

  constructor(
    { socket, attempt }: { readonly socket: Socket; readonly attempt: TransportAttempt },
    timers: Timers,
    events: LineEvents,
  ) {
    this.#socket = socket;
    this.#attempt = attempt;
    this.#timers = new NamedTimers(timers);
    this.#events = events;
    this.#reader = new FrameReader(socket, () => timers.now());
    socket.binaryType = "arraybuffer";
    socket.onmessage = ({ data }) => this.#received(data);
    socket.onclose = ({ code, refusal }) => this.#closed(code, refusal);
    this.#timers.set("opening", ANSWER_WITHIN, () => this.#closed(LOST));
  }

  get transport(): Transport {
    return this.#attempt.transport;
  }

  /** The subprotocol that the server has selected. */
  get subprotocol(): string {
    return this.#socket.protocol;
  }

  get isEstablished(): boolean {
    return this.#isEstablished;
  }

  get isWritable(): boolean {
    return this.#isEstablished && this.#socket.readyState === OPEN;
  }

  /** Whether the server expects acknowledgements. */
  get acknowledges(): boolean {
    return this.carriesBytes || this.subprotocol === SUBPROTOCOL;
  }

  /** Whether a message may have bytes. */
  get carriesBytes(): boolean {
    return this.subprotocol === SUBPROTOCOL_2;
  }

  send(message: ClientMessage): void {
    // Frames still arrive after the other side has begun to close; nothing can be sent by then.
    if (this.#socket.readyState !== OPEN) return;
    const frame = encode(message, this.#timers.now() / 1000);
    this.#socket.send(frame);
    this.#unheard += typeof frame === "string" ? frame.length : frame.byteLength;
    if (!UNANSWERED.has(message.type) && this.#askedAt === null) {
      this.#askedAt = this.#timers.now();
      this.#watch();
    }
    this.#events.sent(message);
  }

  /** Sends a ping, and reports silence if nothing arrives within seconds. */
  probe(): void {
    if (!this.#isEstablished || this.#timers.has("probe")) return;
    this.#timers.set("probe", PROBE_WITHIN, () => {
      // A connection that never delivered anything did not last, however late that is noticed.
      this.#attempt.ended(this.#heardAt, false);
      this.#events.silent();
    });
    this.send({ type: "ping", payload: {}, correlation_id: PROBE_ID });
  }

  /** Holds numbered frames back from now on; other frames are passed on. */
  hold(): void {
    this.#held = [];
    this.#socket.pause?.();
  }

  /** Passes on what was held back, and what arrives from now on. */
  release(): void {
    const held = this.#held ?? [];
    this.#held = null;
    this.#socket.resume?.();
    for (const pass of held) if (!this.#isEnded) pass();
    if (held.length > 0) this.#events.handled();
  }

  /** Ends the line at once. Later frames are ignored: events are replayed on the next line. */
  end(code?: number): void {
    this.#detach();
    this.#socket.close(code);
  }

  /** Closes the socket normally, and calls `closed` once the server has answered, or after a second. */
  closeNormally(closed: () => void): void {
    this.#detach();
    this.#socket.close(1000);
    this.#socket.onclose = closed;
    this.#timers.set("close", CLOSE_WITHIN, closed);
  }

  #detach(): void {
    this.#isEnded = true;
    this.#timers.cancelAll();
    this.#socket.onopen = null;
    this.#socket.onmessage = null;
    this.#socket.onclose = null;
    // `ws` throws an error event that has no listener.
    this.#socket.onerror = () => undefined;
  }

  #closed(code: number, refusal?: Refusal): void {
    if (this.#isEnded) return;
    this.#attempt.ended(this.#timers.now(), code !== LOST || refusal !== undefined);
    this.#events.closed(code, refusal);
  }

  #received(data: unknown): void {
    this.#heardAt = this.#timers.now();
    this.#askedAt = null;
    this.#unheard = 0;
    this.#timers.cancel("probe");
    if (this.#isEstablished && !this.#timers.has("watch")) this.#watch();
    this.#events.received();
    const decoded = this.#reader.read(data);
    if (!decoded.ok) this.#unreadable(decoded);
    else if (this.#isEstablished) this.#message(decoded.message);
    else if (decoded.message.type === "connection_established") this.#established(decoded.message);
    else this.#events.outOfOrder(`expected connection_established first, got ${decoded.message.type}`);
    this.#events.handled();
  }

  #unreadable(frame: Unreadable): void {
    if (this.#isEstablished) this.#pass(frame.seq !== null, () => this.#events.unreadable(frame));
    else this.#events.outOfOrder(frame.fault);
  }

  #established(message: ServerMessageOf<"connection_established">): void {
    this.#isEstablished = true;
    this.#attempt.established(this.#timers.now());
    this.#timers.cancel("opening");
    this.#heartbeatInterval = message.payload.heartbeat_interval;
    this.#watch();
    this.#events.established(message);
  }

  #message(message: ServerMessage): void {
    if (message.type === "connection_established") {
      this.#events.outOfOrder("expected connection_established once");
      return;
    }
    if (message.type === "pong" && message.correlation_id === PROBE_ID) return;
    if (message.type === "heartbeat") this.send({ type: "pong", payload: {} });
    this.#pass("seq" in message, () => this.#events.message(message));
  }

  #pass(isNumbered: boolean, pass: () => void): void {
    if (!isNumbered || this.#held === null) pass();
    else if (this.#held.push(pass) > HELD) this.#events.outOfOrder("events without an acknowledgement");
  }

  /** Probes the line once it has been silent for too long. */
  #watch(): void {
    const left = this.#dueAt - this.#timers.now();
    if (left > 0) this.#timers.set("watch", left, () => this.#watch());
    else this.probe();
  }

  /** When the next frame is due. */
  get #dueAt(): number {
    const heartbeat = this.#heardAt + this.#heartbeatInterval * LATE_INTERVALS;
    const reply = (this.#askedAt ?? Infinity) + REPLY_WITHIN;
    return Math.min(heartbeat, reply) + this.#unheard / UPLOAD_RATE;
  }
}
