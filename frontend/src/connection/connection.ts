/**
 * The connection: opens it, keeps it, gives it up, comes back. It has the session's numbers, the
 * outbox and the figures; what came in it hands on as notes, in order.
 *
 * The rules it acts by are in `core/`. One attempt is one generation: whatever an earlier one
 * still brings, an answer or a frame, is nobody's any more.
 */

import { Alarms } from "./timers.js";
import {
  discover,
  obtainToken,
  Refusal,
  serverAddress,
  socketAddress,
  ANSWER_WITHIN,
} from "./opening.js";
import type { Cancel, Ports, Socket } from "../ports.js";
import { decode, type Decoded } from "../protocol/decode.js";
import { encode, utf8Bytes } from "../protocol/encode.js";
import {
  SUBPROTOCOL,
  type ClientMessage,
  type ErrorBody,
  type ServerLimits,
  type ServerMessage,
  type ServerMessageOf,
} from "../protocol/messages.js";
import { fullJitter } from "../core/backoff.js";
import { ACK_WITHIN, Delivery } from "../core/sequence.js";
import { subjectOf } from "../core/names.js";
import { Outbox, type Entry } from "../core/outbox.js";
import { RateWindow } from "../core/rate.js";
import { closeKind, localError, SEND_AGAIN, TOKEN_REFUSED } from "../core/retry-rules.js";
import { Stats } from "../core/stats.js";
import type { ConnectionStats, Retry, ServerConfig, SessionInfo, Status } from "../core/snapshot.js";
import type { Position, Store } from "../store/session-store.js";
import type { Note } from "../store/view.js";

const OPEN = 1; // of a WebSocket's states
const SILENT_INTERVALS = 2.5; // heartbeats, as the server itself gives up
const PROBE_WITHIN = 5_000; // ms: a line that was asleep answers by then, or is gone
const INSTANT_EVERY = 1_000; // ms between attempts that a page event starts
const CLOSE_WITHIN = 1_000; // ms for the server's half of a good-bye
const RENEW_AGAIN = 10_000; // ms after a token that was not accepted; a minute is left then
const HELD_BACK = 1_000; // ms where the server names no time
const CONTROLS = 100; // requests that wait for a line or an answer; a page asks for a few at once

export interface EngineState {
  readonly status: Status;
  readonly config: ServerConfig | null;
  readonly stats: ConnectionStats;
  readonly lastError: ErrorBody | null;
  readonly retry: Retry | null;
  readonly session: SessionInfo | null;
}

export type Control = Extract<ClientMessage, { type: "ping" | "pong" | "stop_agent" | "get_thread_history" }>;

export interface EngineOptions {
  readonly url?: string | undefined;
  readonly maxReconnectAttempts: number;
  readonly reconnectInterval: number;
  readonly getToken: (() => Promise<string> | string) | null;
}

/** A tab's right to the connection. */
export interface Seat {
  readonly store: Store;
  /** Others had it meanwhile: what was known from before may be old. */
  readonly waited: boolean;
}

export interface EngineHost {
  /** Waits for this tab's turn to connect as this user; null for one whose name is not known. */
  seat(subject: string | null): Promise<Seat>;
  /** The stored outbox is read: what waits elsewhere may come in. */
  seated(): void;
  /** Up to where this tab has seen everything. */
  position(): Position | null;
  note(note: Note): void;
  written(id: string): void;
  /** The page came back, or the network. */
  woken(): void;
  changed(): void;
}

interface WaitingControl {
  readonly message: Control;
  sent: boolean;
}

interface Line {
  readonly socket: Socket;
  readonly acknowledges: boolean;
  isEstablished: boolean;
  isDraining: boolean;
  heardAt: number;
}

export class Engine {
  readonly #ports: Ports;
  readonly #options: EngineOptions;
  readonly #host: EngineHost;
  readonly #outbox = new Outbox();
  readonly #rate = new RateWindow();
  readonly #stats = new Stats();
  readonly #controls = new Map<string, WaitingControl>();
  readonly #alarms: Alarms;
  #pageEvents: readonly Cancel[] = [];

  #status: Status = "DISCONNECTED";
  #config: ServerConfig | null = null;
  #isConfigFresh = false;
  #limits: ServerLimits | null = null;
  #lastError: ErrorBody | null = null;
  #errorIsOfLine = false;
  #retry: Retry | null = null;
  #session: SessionInfo | null = null;

  #generation = 0;
  #failures = 0;
  #startedAt = 0;
  #notBefore = 0;
  #line: Line | null = null;
  #store: Store | null = null;
  #delivery = new Delivery();
  #renewal: string | null = null;
  /** Whom the seat is for; undefined before the first. */
  #subject: string | null | undefined;
  #refused: { readonly token: string | null; readonly why: Refusal } | null = null;

  constructor(ports: Ports, options: EngineOptions, host: EngineHost) {
    this.#ports = ports;
    this.#alarms = new Alarms(ports.timers);
    this.#options = options;
    this.#host = host;
  }

  get state(): EngineState {
    return {
      status: this.#status,
      config: this.#config,
      stats: this.#stats.figures,
      lastError: this.#lastError,
      retry: this.#retry,
      session: this.#session,
    };
  }

  get outbox(): readonly Entry[] {
    return this.#outbox.entries();
  }

  start(): void {
    const isAtRest = ["DISCONNECTED", "DISCONNECTING", "ERROR"].includes(this.#status);
    if (isAtRest) this.restart();
  }

  /** Begins afresh, whatever the state. */
  restart(): void {
    this.#failures = 0;
    this.#dropLine();
    if (this.#pageEvents.length === 0) {
      this.#pageEvents = [
        this.#ports.onPage("online", () => this.#host.woken()),
        this.#ports.onPage("visible", () => this.#host.woken()),
        this.#ports.onPage("hide", () => this.#savePosition()),
      ];
    }
    this.#begin();
  }

  /** Waits for the seat that was left, as the last of all tabs, to try again when it comes. */
  queueAgain(): void {
    this.#failures = 0;
    this.#dropLine();
    this.#begin(this.#subject);
  }

  /** The page is back, or the network: waiting has no point any more, and an old line may be dead. */
  wake(): void {
    const now = this.#ports.timers.now();
    if (this.#retry !== null) {
      if (now >= this.#notBefore && now - this.#startedAt >= INSTANT_EVERY) this.#begin();
      return;
    }
    const line = this.#line;
    if (line === null || !line.isEstablished || this.#alarms.has("probe")) return;
    this.#alarms.set("probe", PROBE_WITHIN, () => this.#lineFailed(this.#closeError(1006)));
    this.#send(line, { type: "ping", payload: {}, correlation_id: this.#ports.uniqueId() });
  }

  /** Says good-bye; the session stays resumable for its window. */
  stop(): void {
    const socket = this.#end();
    if (socket === null) {
      this.#rest("DISCONNECTED");
      return;
    }
    const generation = this.#generation;
    const ended = (): void => {
      if (generation === this.#generation) this.#rest("DISCONNECTED");
    };
    socket.onclose = ended;
    this.#status = "DISCONNECTING";
    this.#alarms.set("close", CLOSE_WITHIN, ended);
    this.#changed();
  }

  /** Ends at once, and tells nobody. */
  kill(): void {
    this.#end();
    this.#status = "DISCONNECTED";
  }

  /** What is stored is another's from here on; or since before, where the seat was taken away. */
  leaveSeat(wasTaken: boolean): void {
    if (!wasTaken) this.#savePosition();
    this.#store = null;
    this.#session = null;
    this.#outbox.clear();
    this.#controls.clear();
    this.#stats.queued(0);
  }

  #end(): Socket | null {
    this.#generation += 1;
    this.#alarms.cancelAll();
    this.#retry = null;
    for (const cancel of this.#pageEvents) cancel();
    this.#pageEvents = [];
    const socket = this.#line?.socket ?? null;
    if (socket !== null) {
      this.#silence(socket);
      socket.close(1000);
      this.#lineEnded();
    }
    return socket;
  }

  clearError(): void {
    this.#lastError = null;
    this.#changed();
  }

  fail(body: ErrorBody): void {
    this.#lastError = body;
    this.#errorIsOfLine = false;
    this.#stats.failed();
    this.#changed();
  }

  /** Takes a message for sending; false where it is too much. Only for a tab that has its seat. */
  submit(entry: Entry): boolean {
    if (this.#outbox.get(entry.key) !== undefined) return true;
    if (this.#outbox.isFull) return false;
    this.#outbox.add(entry);
    this.#saveOutbox();
    this.#flush();
    this.#changed();
    return true;
  }

  /** Asks the server something; unanswered, it is asked again on the next line. */
  control(id: string, message: Control): boolean {
    if (this.#controls.has(id)) return true;
    if (this.#controls.size >= CONTROLS) return false;
    this.#controls.set(id, { message, sent: false });
    this.#flush();
    return true;
  }

  /** Nobody waits for the answer any more. */
  forget(id: string): void {
    this.#controls.delete(id);
  }

  // Opening.

  #begin(subject?: string | null): void {
    this.#generation += 1;
    this.#alarms.cancelAll();
    this.#retry = null;
    this.#startedAt = this.#ports.timers.now();
    const wasHere = this.#failures > 0 || this.#session !== null;
    this.#status = wasHere ? "RECONNECTING" : "CONNECTING";
    this.#changed();
    void this.#open(this.#generation, subject);
  }

  async #open(generation: number, subject: string | null | undefined): Promise<void> {
    const isStale = (): boolean => generation !== this.#generation;
    let tried: string | null = null;
    try {
      const taken = await this.#sit(isStale, subject);
      if (taken === null) return;
      const { token, store } = taken;
      tried = token;
      // Only its turn has come again, nobody asked: the same token would get the same answer.
      if (subject !== undefined && token === this.#refused?.token) throw this.#refused.why;
      const server = serverAddress(this.#ports, this.#options.url);
      if (!this.#isConfigFresh) this.#config = await discover(this.#ports, server);
      if (isStale() || this.#config === null) return;
      this.#isConfigFresh = true;
      this.#limits ??= this.#config.connection_limits;
      this.#rate.limit = this.#limits.max_message_rate;
      if (token === null && this.#config.features.auth_required) throw this.#needsToken();
      const position = this.#position(store);
      const again = async (): Promise<string> => {
        tried = this.#sameUsers((await this.#obtain()) ?? "");
        return tried;
      };
      const address = await socketAddress(this.#ports, server, this.#config, token, again, position);
      if (!isStale()) this.#connect(address.url, address.protocols, generation);
    } catch (error) {
      if (isStale()) return;
      if (!(error instanceof Refusal)) throw error;
      this.#isConfigFresh = false;
      this.#stats.failed();
      this.#refused = TOKEN_REFUSED.has(error.body.code) ? { token: tried, why: error } : null;
      if (error.again) this.#tryLater(error.body, error.wait);
      else this.#giveUp(error.body);
    }
  }

  async #obtain(): Promise<string | null> {
    const { getToken } = this.#options;
    return getToken === null ? null : obtainToken(this.#ports, getToken);
  }

  /** The seat of a token's user, and the token; null where something newer has begun. */
  async #sit(
    isStale: () => boolean,
    known: string | null | undefined,
  ): Promise<{ readonly token: string | null; readonly store: Store } | null> {
    let token = known === undefined ? await this.#obtain() : null;
    let subject = known === undefined ? userOf(token) : known;
    for (;;) {
      if (isStale()) return null;
      this.#subject = subject;
      const { store, waited } = await this.#host.seat(subject);
      if (isStale()) return null;
      this.#takeSeat(store);
      if (!waited && known === undefined) return { token, store };
      known = undefined;
      token = await this.#obtain();
      if (isStale()) return null;
      // Somebody else may have come in while this tab waited: the seat is not theirs.
      if (userOf(token) === subject) return { token, store };
      subject = userOf(token);
    }
  }

  /** The token, unless it is for somebody else: theirs is another seat. */
  #sameUsers(token: string): string {
    if (userOf(token) === this.#subject) return token;
    const help = "Nothing to do: the client connects as the new user.";
    const error = "The token is for another user than before.";
    throw new Refusal(localError(this.#ports.timers.now(), "USER_CHANGED", error, help), true);
  }

  #needsToken(): Refusal {
    const now = this.#ports.timers.now();
    const help = "Give the client a getToken function.";
    return new Refusal(localError(now, "AUTH_REQUIRED", "The server asks for a token.", help, false), false);
  }

  #takeSeat(store: Store): void {
    if (store === this.#store) return;
    this.#store = store;
    this.#session = null;
    this.#outbox.clear();
    for (const entry of store.loadOutbox()) {
      this.#outbox.add(entry);
      this.#host.note({ kind: "restored", entry });
    }
    this.#stats.queued(this.#outbox.size);
    this.#host.seated();
    this.#changed();
  }

  /** What this tab has seen is newer than what was stored, where it is of the same session. */
  #position(store: Store): Position | null {
    const seen = this.#host.position();
    const stored = store.position;
    return seen !== null && (stored === null || seen.session === stored.session) ? seen : stored;
  }

  #connect(url: string, protocols: string[], generation: number): void {
    let socket: Socket;
    try {
      socket = new this.#ports.WebSocket(url, protocols);
    } catch {
      const help = "Check the address; a page loaded by https can only use wss.";
      const now = this.#ports.timers.now();
      this.#giveUp(localError(now, "BAD_ADDRESS", "The browser refused to open the connection.", help, false));
      return;
    }
    const line: Line = {
      socket,
      get acknowledges() {
        return socket.protocol === SUBPROTOCOL;
      },
      isEstablished: false,
      isDraining: false,
      heardAt: this.#ports.timers.now(),
    };
    this.#line = line;
    const lost = (code: number): void => {
      if (generation === this.#generation && this.#line === line) this.#lost(code);
    };
    socket.onmessage = (event) => {
      if (generation === this.#generation && this.#line === line) this.#received(line, event.data);
    };
    socket.onclose = (event) => lost(event.code);
    this.#alarms.set("opening", ANSWER_WITHIN, () => lost(1006));
  }

  // What comes in.

  #received(line: Line, data: unknown): void {
    const now = this.#ports.timers.now();
    line.heardAt = now;
    this.#alarms.cancel("probe");
    this.#stats.received(now);
    const decoded = decode(data);
    if (!decoded.ok) this.#unreadable(line, decoded);
    else if (line.isEstablished) this.#handle(line, decoded.message);
    else if (decoded.message.type === "connection_established") this.#established(line, decoded.message);
    else this.#outOfOrder(`expected connection_established first, got ${decoded.message.type}`);
    this.#changed();
  }

  #unreadable(line: Line, { fault, seq, seq_from }: Extract<Decoded, { ok: false }>): void {
    if (!line.isEstablished) {
      this.#outOfOrder(fault);
      return;
    }
    const help = "Reload the page to get its newest version.";
    this.fail(localError(this.#ports.timers.now(), "BAD_SERVER_FRAME", fault, help));
    // It has a number, so it counts as taken: asking for it again would bring it again.
    if (seq === null || this.#delivery.place(seq, seq_from) !== "next") return;
    this.#delivery.take(seq);
    this.#host.note({ kind: "skipped", seq, from: seq_from ?? seq });
    this.#acknowledge(line);
  }

  /** The server broke the order: nothing on this line can be trusted, the session can. */
  #outOfOrder(fault: string): void {
    this.#stats.failed();
    const help = "Nothing to do: the client connects again by itself.";
    this.#lineFailed(localError(this.#ports.timers.now(), "BAD_SERVER_FRAME", fault, help));
  }

  #established(line: Line, message: ServerMessageOf<"connection_established">): void {
    const { session_id, connection_id, user_id, resume, limits } = message.payload;
    line.isEstablished = true;
    this.#alarms.cancel("opening");
    this.#limits = limits;
    this.#rate.limit = limits.max_message_rate;
    this.#session = {
      session_id,
      connection_id,
      user_id,
      verdict: resume.verdict,
      reason: resume.reason ?? null,
    };
    this.#delivery.startAfter(resume.last_seq);
    if (this.#store !== null) this.#store.position = { session: session_id, last: resume.last_seq };
    this.#status = "CONNECTED";
    this.#notBefore = 0;
    if (this.#errorIsOfLine) this.#lastError = null;
    this.#errorIsOfLine = false;
    this.#stats.connected(this.#ports.timers.now(), connection_id);
    this.#host.note({ kind: "message", message });
    this.#watch(line, message.payload.heartbeat_interval);
    this.#flush();
  }

  #handle(line: Line, message: ServerMessage): void {
    if ("seq" in message) {
      this.#event(line, message);
      return;
    }
    switch (message.type) {
      case "heartbeat":
        this.#failures = 0;
        this.#send(line, { type: "pong", payload: {} });
        break;
      case "auth_expiring":
        void this.#renew(line);
        break;
      case "auth_ok":
        if (message.correlation_id === this.#renewal) this.#alarms.cancel("renewal");
        break;
      case "server_draining":
        line.isDraining = true;
        this.#notBefore = this.#ports.timers.now() + message.payload.reconnect_after_ms;
        break;
      case "error":
        this.#failed(message);
        return;
      case "thread_history":
        if (message.correlation_id !== undefined) this.#controls.delete(message.correlation_id);
        break;
      case "connection_established":
        this.#outOfOrder("expected connection_established once");
        return;
      case "pong":
        break;
    }
    this.#host.note({ kind: "message", message });
  }

  #event(line: Line, message: Extract<ServerMessage, { seq: number }>): void {
    const place = this.#delivery.place(message.seq, message.seq_from);
    if (place === "again") return;
    if (place === "jump") {
      this.#outOfOrder(`expected event ${this.#delivery.last + 1}, got ${message.seq_from ?? message.seq}`);
      return;
    }
    this.#delivery.take(message.seq);
    this.#failures = 0;
    if (message.type === "message_confirmed" && message.correlation_id !== undefined) {
      this.#settle(message.correlation_id, true, null);
    }
    if (message.type === "agent_completed") this.#stopped(message.payload.run_id);
    // Handed on before it is acknowledged: what the server may forget, the tabs have.
    this.#host.note({ kind: "message", message });
    this.#acknowledge(line);
  }

  #stopped(runId: string): void {
    for (const [id, { message }] of this.#controls) {
      if (message.type === "stop_agent" && message.payload.run_id === runId) this.#controls.delete(id);
    }
  }

  #failed(message: ServerMessageOf<"error">): void {
    const key = message.correlation_id;
    const body = message.payload;
    if (key !== undefined && this.#controls.delete(key)) {
      // Whoever asked is told; it is no trouble of the connection's.
      this.#host.note({ kind: "message", message });
      return;
    }
    this.#stats.failed();
    this.#lastError = body;
    this.#errorIsOfLine = key === undefined && !body.recoverable;
    const isWork = key !== undefined && this.#outbox.get(key) !== undefined;
    if (isWork && SEND_AGAIN.has(body.code)) {
      const wait = body.code === "SERVER_DRAINING" ? Infinity : (body.retry_after_ms ?? HELD_BACK);
      this.#outbox.holdBack(key, this.#ports.timers.now() + wait);
      this.#flush();
    } else if (isWork) {
      this.#settle(key, false, body);
    }
    this.#host.note({ kind: "message", message });
  }

  #settle(key: string, ok: boolean, error: ErrorBody | null): void {
    const entry = this.#outbox.settle(key);
    if (entry === null) return;
    this.#saveOutbox();
    this.#host.note({ kind: "settled", entry, ok, error });
  }

  #acknowledge(line: Line): void {
    if (!this.#delivery.hasToAcknowledge) return;
    if (!this.#delivery.isAckDue) {
      if (!this.#alarms.has("ack")) this.#alarms.set("ack", ACK_WITHIN, () => this.#sendAck(line));
      return;
    }
    this.#sendAck(line);
  }

  #sendAck(line: Line): void {
    this.#alarms.cancel("ack");
    // Written down first: after a reload the server must not be asked for what it may have dropped.
    this.#savePosition();
    const seq = this.#delivery.acknowledge();
    if (line.acknowledges) this.#send(line, { type: "ack", payload: { seq } });
  }

  // What goes out.

  #flush(): void {
    const line = this.#line;
    // What cannot be written any more waits for the next line.
    if (line === null || !line.isEstablished || line.socket.readyState !== OPEN) return;
    for (const [id, control] of this.#controls) {
      if (control.sent) continue;
      control.sent = true;
      this.#send(line, control.message);
      if (control.message.type === "ping" || control.message.type === "pong") this.#controls.delete(id);
      this.#host.written(id);
    }
    while (!line.isDraining) {
      const now = this.#ports.timers.now();
      const entry = this.#outbox.next(now);
      const wait = entry === null ? this.#outbox.wait(now) : this.#sendEntry(line, entry, now);
      if (wait > 0 && wait !== Infinity) this.#alarms.set("flush", wait, () => this.#flush());
      if (wait > 0 || entry === null) break;
    }
    this.#stats.queued(this.#outbox.size);
  }

  /** Writes a message, or fails one that is too large; returns how long it has to wait instead. */
  #sendEntry(line: Line, entry: Entry, now: number): number {
    const limit = this.#limits?.max_message_size ?? Infinity;
    const size = utf8Bytes(encode(entry.message, now / 1000));
    if (size > limit) {
      const error = `The message has ${size} bytes; at most ${limit} are allowed.`;
      const body = localError(now, "MESSAGE_TOO_LARGE", error, "Send a shorter message.");
      this.fail(body);
      this.#settle(entry.key, false, body);
      return 0;
    }
    const wait = this.#rate.take(now);
    if (wait > 0) return wait;
    this.#outbox.markSent(entry.key);
    this.#host.note({ kind: "sending", entry });
    this.#send(line, entry.message);
    return 0;
  }

  #send(line: Line, message: ClientMessage): void {
    // Its last frames are still told of after the other side has closed it.
    if (line.socket.readyState !== OPEN) return;
    const now = this.#ports.timers.now();
    line.socket.send(encode(message, now / 1000));
    this.#stats.sent(now);
  }

  async #renew(line: Line): Promise<void> {
    const { getToken } = this.#options;
    if (getToken === null) return;
    // `auth_ok` cancels this; without it the server ends the connection when the token ends.
    const again = (): void => this.#alarms.set("renewal", RENEW_AGAIN, () => void this.#renew(line));
    try {
      const token = await obtainToken(this.#ports, getToken);
      if (this.#line !== line) return;
      if (userOf(token) !== this.#subject) {
        this.restart();
        return;
      }
      this.#renewal = this.#ports.uniqueId();
      again();
      this.#send(line, { type: "auth", payload: { token }, correlation_id: this.#renewal });
    } catch (error) {
      if (!(error instanceof Refusal)) throw error;
      if (this.#line !== line) return;
      this.fail(error.body);
      again();
    }
  }

  // Losing the line, and coming back.

  #watch(line: Line, interval: number): void {
    const patience = interval * SILENT_INTERVALS;
    const look = (): void => {
      const left = line.heardAt + patience - this.#ports.timers.now();
      if (left > 0) this.#alarms.set("watchdog", left, look);
      else this.#lineFailed(this.#closeError(1006));
    };
    look();
  }

  #closeError(code: number): ErrorBody {
    const { code: name, error, help, after } = closeKind(code);
    return localError(this.#ports.timers.now(), name, error, help, after === "retry" || after === "token");
  }

  /** A browser does not tell why an upgrade failed; the ticket before it was given. */
  #notOpened(code: number): ErrorBody {
    if (code !== 1006) return this.#closeError(code);
    const help = "Nothing to do: the client tries again. Too many open windows may be the cause.";
    return localError(this.#ports.timers.now(), "OPENING_FAILED", "The connection did not open.", help);
  }

  /** The socket closed by itself. */
  #lost(code: number): void {
    const told = this.#lastError;
    const { after } = closeKind(code);
    const body = this.#line?.isEstablished === true ? this.#closeError(code) : this.#notOpened(code);
    this.#dropLine();
    if (after === "retry" || after === "token") this.#tryLater(body, 0);
    // What the server said before it closed is better than what the code says.
    else if (after === "stop") this.#giveUp(this.#errorIsOfLine && told !== null ? told : body);
    else this.#rest("DISCONNECTED");
  }

  /** The socket stands, and is of no use. */
  #lineFailed(body: ErrorBody): void {
    this.#dropLine();
    this.#tryLater(body, 0);
  }

  #dropLine(): void {
    const line = this.#line;
    if (line === null) return;
    this.#silence(line.socket);
    line.socket.close();
    this.#lineEnded();
  }

  #lineEnded(): void {
    const wasEstablished = this.#line?.isEstablished === true;
    this.#line = null;
    this.#savePosition();
    if (!wasEstablished) this.#isConfigFresh = false;
    if (wasEstablished) this.#stats.lost(this.#ports.timers.now());
    for (const control of this.#controls.values()) control.sent = false;
    const keys = this.#outbox.lineLost();
    if (keys.length > 0) this.#host.note({ kind: "unconfirmed", keys });
  }

  /** Reads nothing more from it: what it brings now comes again on the next line. */
  #silence(socket: Socket): void {
    socket.onopen = null;
    socket.onmessage = null;
    socket.onclose = null;
    // `ws` raises an error that nobody listens to.
    socket.onerror = () => undefined;
  }

  #tryLater(body: ErrorBody, atLeast: number): void {
    this.#generation += 1;
    this.#alarms.cancelAll();
    const { timers } = this.#ports;
    const now = timers.now();
    this.#failures += 1;
    if (this.#failures > this.#options.maxReconnectAttempts) {
      const error = `No connection after ${this.#options.maxReconnectAttempts} attempts. ${body.error}`;
      this.#giveUp(localError(now, "RETRIES_EXHAUSTED", error, "Connect again when the server is back."));
      return;
    }
    this.#notBefore = Math.max(this.#notBefore, now + atLeast);
    const jitter = fullJitter(this.#failures, this.#options.reconnectInterval, this.#ports.random());
    const delay = Math.max(jitter, this.#notBefore - now);
    this.#status = "RECONNECTING";
    this.#lastError = body;
    this.#errorIsOfLine = true;
    this.#retry = { at: now + delay, delay_ms: delay, attempt: this.#failures };
    this.#alarms.set("retry", delay, () => this.#begin());
    this.#changed();
  }

  #giveUp(body: ErrorBody): void {
    this.#lastError = body;
    this.#errorIsOfLine = true;
    this.#rest("ERROR");
  }

  #rest(status: "DISCONNECTED" | "ERROR"): void {
    this.#generation += 1;
    this.#alarms.cancelAll();
    this.#retry = null;
    this.#stats.ended();
    this.#status = status;
    this.#changed();
  }

  // Small parts.

  #savePosition(): void {
    if (this.#store === null || this.#session === null) return;
    const { session_id } = this.#session;
    // Another tab, or another session, may have written there since.
    if (this.#store.position?.session !== session_id) return;
    this.#store.position = { session: session_id, last: this.#delivery.last };
  }

  #saveOutbox(): void {
    this.#stats.queued(this.#outbox.size);
    if (this.#store === null || this.#store.saveOutbox(this.#outbox.entries())) return;
    const now = this.#ports.timers.now();
    const help = "Keep this page open until everything is sent.";
    this.fail(localError(now, "STORAGE_FULL", "The browser has no room for unsent messages.", help));
  }

  #changed(): void {
    this.#host.changed();
  }
}

/** Without tokens there is one user; one whose token tells no name is null. */
const userOf = (token: string | null): string | null => (token === null ? "" : subjectOf(token));
