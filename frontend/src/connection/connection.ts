/**
 * The connection to the server: opens lines, replaces a lost line, and resumes the session.
 *
 * It decides what happens next; its parts do one job each: `Opener` prepares an attempt, `Line` is
 * one socket, `Sender` and `Receiver` are the two directions, `RetryTimer` and `Renewal` decide when
 * to try again. Each attempt has a number: results of an earlier attempt are ignored.
 */

import type { OutboxMessage } from "../core/outbox.js";
import { closeError, closeKind, localError, notOpened, retriesExhausted } from "../core/retry-rules.js";
import type { ConnectionState, Status } from "../core/snapshot.js";
import type { ServerConfig } from "../protocol/discovery.js";
import type { ControlRequest, ErrorBody, ServerMessageOf } from "../protocol/messages.js";
import { RETURN_EVERY, TransportPolicy } from "../core/transports.js";
import type { Ports, Refusal } from "../ports.js";
import type { SessionStore } from "../store/session-store.js";
import { FrameHandler } from "./frames.js";
import { Line, type LineEvents } from "./line.js";
import { Opener } from "./opener.js";
import { OpeningError } from "./opening.js";
import type { ConnectionOptions, ConnectionOwner } from "./owner.js";
import { PageEvents } from "./page.js";
import { Receiver } from "./receiver.js";
import { Renewal } from "./renewal.js";
import { RetryTimer } from "./retry.js";
import { Sender } from "./sender.js";
import { StateTracker } from "./state.js";
import { Switch } from "./switch.js";
import { NamedTimers } from "./timers.js";

export class Connection {
  readonly #ports: Ports;
  readonly #owner: ConnectionOwner;
  readonly #maxAttempts: number;
  readonly #state = new StateTracker();
  readonly #policy = new TransportPolicy();
  /** The timers of the current line's parts; all end with it. */
  readonly #timers: NamedTimers;
  readonly #opener: Opener;
  readonly #sender: Sender;
  readonly #receiver: Receiver;
  readonly #renewal: Renewal;
  readonly #frames: FrameHandler;
  readonly #retry: RetryTimer;
  readonly #switch: Switch;
  readonly #page: PageEvents;
  #attempt = 0;
  #line: Line | null = null;
  #closing: Line | null = null;
  #store: SessionStore | null = null;

  constructor(ports: Ports, options: ConnectionOptions, owner: ConnectionOwner) {
    this.#ports = ports;
    this.#owner = owner;
    this.#maxAttempts = options.maxReconnectAttempts;
    this.#timers = new NamedTimers(ports.timers);
    this.#page = new PageEvents(ports, () => owner.pageIsBack(), () => this.#receiver.savePosition());
    this.#retry = new RetryTimer(ports, options);
    this.#opener = new Opener(ports, options.url, options.getToken, this.#policy, {
      lead: (subject) => owner.lead(subject),
      leads: (store) => this.#leads(store),
      position: () => owner.position(),
      configured: (config) => this.#configured(config),
    });
    this.#sender = new Sender(this.#timers, {
      update: (update) => owner.update(update),
      written: (id) => owner.written(id),
      failed: (error) => this.#failed(error),
      queued: (count) => this.#state.stats.queued(count),
      urgent: () => this.#switch.tryNow(),
    });
    this.#receiver = new Receiver(this.#timers, (seq) => {
      if (this.#line?.acknowledges === true) this.#line.send({ type: "ack", payload: { seq } });
    });
    this.#renewal = new Renewal(this.#timers, {
      obtainToken: () => this.#opener.obtainToken(),
      isSameUser: (token) => this.#opener.isSameUser(token),
      sendToken: (token) => this.#sendToken(token),
      userChanged: () => this.restart(),
      random: () => ports.random(),
      failed: (error) => this.#failed(error),
    });
    this.#frames = new FrameHandler(this.#sender, this.#receiver, this.#renewal, {
      now: () => this.#now(),
      hasLine: () => this.#line !== null,
      update: (update) => {
        if (update.kind === "message") this.#state.stats.message(update.message);
        owner.update(update);
      },
      progress: () => this.#retry.reset(),
      draining: (reconnectAfter) => this.#switch.plan(this.#line, reconnectAfter),
      failed: (error) => this.#failed(error),
      serverError: (error, explainsClose) => this.#state.reported(error, explainsClose),
      outOfOrder: (fault) => this.#outOfOrder(fault),
    });
    this.#switch = new Switch(ports, options.reconnectInterval, this.#opener, this.#receiver, this.#retry, {
      events: () => this.#lineEvents(),
      hasRuns: () => owner.hasRuns(),
      replace: (line, message) => {
        this.#endLine(1000);
        this.#line = line;
        this.#established(message);
      },
    });
  }

  get state(): ConnectionState {
    return this.#state.value({ retry: this.#retry.retry, tokenEndsAt: this.#renewal.endsAt });
  }

  get outbox(): readonly OutboxMessage[] {
    return this.#sender.messages;
  }

  /** Connects, unless it is connected or connecting. */
  start(): void {
    const resting: readonly Status[] = ["DISCONNECTED", "DISCONNECTING", "ERROR"];
    if (resting.includes(this.#state.status)) this.restart();
  }

  /** Connects anew, whatever the state. */
  restart(): void {
    this.#retry.reset();
    this.#endLine();
    this.#page.start();
    this.#begin(false);
  }

  /** Waits for the leadership again, after all other tabs, and then tries once more. */
  rejoin(): void {
    this.#retry.reset();
    this.#endLine();
    this.#begin(true);
  }

  /** Brings the next attempt forward, if one waits. Returns whether one waits. */
  retryNow(): boolean {
    const isWaiting = this.#retry.bringForward();
    if (isWaiting) this.#owner.changed();
    return isWaiting;
  }

  /** Ends a wait between attempts, or checks whether the current line still delivers. */
  wake(): void {
    if (!this.retryNow()) this.#line?.probe();
  }

  /** Closes the connection normally; the session can be resumed within its window. */
  stop(): void {
    const line = this.#line;
    this.#beginEnd();
    if (line === null) {
      this.#suspend("DISCONNECTED");
      return;
    }
    line.closeNormally(() => {
      if (this.#closing !== line) return;
      this.#closing = null;
      line.end();
      this.#suspend("DISCONNECTED");
    });
    this.#closing = line;
    this.#lineEnded();
    this.#state.status = "DISCONNECTING";
    this.#owner.changed();
  }

  /** Ends at once, and reports nothing. */
  abort(): void {
    const line = this.#line;
    this.#beginEnd();
    if (line !== null) {
      line.end(1000);
      this.#lineEnded();
    }
    this.#state.status = "DISCONNECTED";
  }

  /**
   * Gives up the leadership: what is stored belongs to the next leader.
   *
   * @param wasTaken Whether another tab has taken it already, and may have written since.
   */
  resign(wasTaken: boolean): void {
    if (!wasTaken) this.#receiver.savePosition();
    this.#store = null;
    this.#state.session = null;
    this.#receiver.use(null);
    this.#sender.unload();
  }

  clearError(): void {
    this.#state.clearError();
    this.#owner.changed();
  }

  /** Accepts a message for sending; false if the outbox is full. Only for a tab that leads. */
  submit(message: OutboxMessage): boolean {
    const isAccepted = this.#sender.submit(message);
    this.#owner.changed();
    return isAccepted;
  }

  /** Accepts a request; false if too many are open. */
  request(id: string, message: ControlRequest): boolean {
    return this.#sender.request(id, message);
  }

  /** The answer to a request is no longer needed. */
  forget(id: string): void {
    this.#sender.forget(id);
  }

  // Opening.

  #begin(isRejoining: boolean): void {
    this.#attempt += 1;
    this.#closing?.end();
    this.#closing = null;
    this.#timers.cancelAll();
    const isReconnecting = this.#retry.hasFailed || this.#state.session !== null;
    this.#retry.started();
    this.#state.status = isReconnecting ? "RECONNECTING" : "CONNECTING";
    this.#owner.changed();
    void this.#open(isRejoining);
  }

  async #open(isRejoining: boolean): Promise<void> {
    const attempt = this.#attempt;
    const isStale = (): boolean => attempt !== this.#attempt;
    try {
      const openSocket = await this.#opener.open(isStale, isRejoining);
      if (openSocket === null || isStale()) return;
      this.#line = new Line(openSocket(), this.#ports.timers, this.#lineEvents());
    } catch (error) {
      if (isStale()) return;
      if (!(error instanceof OpeningError)) throw error;
      this.#state.stats.failed();
      if (error.isRetryable) this.#tryLater(error.body, error.retryAfter);
      else this.#giveUp(error.body);
    }
  }

  #leads(store: SessionStore): void {
    if (store === this.#store) return;
    this.#store = store;
    this.#state.session = null;
    this.#receiver.use(store);
    this.#sender.load(store);
    this.#owner.ready();
    this.#owner.changed();
  }

  #configured(config: ServerConfig): void {
    this.#state.config = config;
    this.#sender.limits = config.connection_limits;
  }

  // The current line. A line that has ended reports nothing more.

  #lineEvents(): LineEvents {
    const { stats } = this.#state;
    return {
      received: () => stats.received(this.#now()),
      handled: () => this.#owner.changed(),
      sent: (message) => stats.sent(message, this.#now()),
      established: (message) => this.#established(message),
      message: (message) => this.#frames.message(message),
      unreadable: (frame) => this.#frames.unreadable(frame),
      closed: (code, refusal) => this.#closed(code, refusal),
      silent: () => {
        stats.failed();
        this.#lineFailed(closeError(1006, this.#now()));
      },
      outOfOrder: (fault) => this.#outOfOrder(fault),
    };
  }

  #established(message: ServerMessageOf<"connection_established">): void {
    const { session_id, connection_id, user_id, user_room, agents, server_time, resume, limits } = message.payload;
    const { verdict, reason = null, last_seq } = resume;
    this.#sender.limits = limits;
    this.#state.limits = limits;
    this.#receiver.start(session_id, last_seq);
    const { transport = "websocket", subprotocol = "" } = this.#line ?? {};
    const session = { session_id, connection_id, subprotocol, user_id, verdict, reason, user_room, agents };
    this.#state.connected(this.#now(), session, server_time, transport);
    if (transport !== "websocket") this.#planReturn();
    this.#retry.connected();
    this.#owner.update({ kind: "message", message });
    if (this.#line !== null) this.#sender.attach(this.#line, (id) => this.#owner.isClosed(id, resume.runs));
  }

  #sendToken(token: string): string {
    const correlation_id = this.#ports.uniqueId();
    this.#line?.send({ type: "auth", payload: { token }, correlation_id });
    return correlation_id;
  }

  // Losing a line, and reconnecting.

  /** Replaces a fallback by a WebSocket, if that works again, while no run needs the connection. */
  #planReturn(): void {
    this.#timers.set("return", RETURN_EVERY, () => {
      this.#planReturn();
      if (!this.#owner.hasRuns() && this.#policy.isReturnDue(this.#now())) this.#switch.tryOnce(this.#line);
    });
  }

  #closed(code: number, refusal?: Refusal): void {
    const cause = this.#state.cause;
    const reason = this.#switch.reason(code);
    const { after } = closeKind(reason);
    const error = refusal?.body ?? (this.#line?.isEstablished === true ? closeError : notOpened)(reason, this.#now());
    const next = after === "retry" ? this.#switch.release() : null;
    this.#endLine();
    if (next === null && after !== "done") this.#state.stats.failed();
    if (next !== null) this.#goOn(next, reason === code ? error : null);
    else if (refusal?.isRetryable === false) this.#giveUp(error);
    else if (after === "retry" || after === "token") this.#tryLater(error, refusal?.retryAfter ?? 0);
    // An error that the server sent before it closed says more than the close code.
    else if (after === "stop") this.#giveUp(cause ?? error);
    else this.#suspend("DISCONNECTED");
  }

  /** Goes on with the attempt that was to replace a line; null if it has ended the line itself. */
  #goOn(next: Line, error: ErrorBody | null): void {
    this.#line = next;
    if (error !== null) this.#state.reconnecting(error);
    this.#owner.changed();
  }

  /** The line cannot be trusted any more; the session can. */
  #outOfOrder(fault: string): void {
    this.#state.stats.failed();
    const help = "Nothing to do: the client reconnects automatically.";
    this.#lineFailed(localError(this.#now(), "BAD_SERVER_FRAME", fault, help));
  }

  #lineFailed(error: ErrorBody): void {
    this.#endLine();
    this.#tryLater(error, 0);
  }

  #endLine(code?: number): void {
    this.#line?.end(code);
    if (this.#line !== null) this.#lineEnded();
  }

  #lineEnded(): void {
    if (this.#line?.isEstablished === true) this.#state.stats.lost(this.#now());
    else this.#opener.forgetConfig();
    this.#line = null;
    this.#switch.cancel();
    this.#renewal.stop();
    this.#receiver.savePosition();
    this.#sender.detach();
    this.#timers.cancelAll();
  }

  #tryLater(error: ErrorBody, atLeast: number): void {
    this.#attempt += 1;
    if (!this.#retry.plan(atLeast, () => this.#begin(false))) {
      this.#giveUp(retriesExhausted(this.#maxAttempts, error, this.#now()));
      return;
    }
    this.#state.reconnecting(error);
    this.#owner.changed();
  }

  #giveUp(error: ErrorBody): void {
    this.#state.reported(error, true);
    this.#suspend("ERROR");
  }

  #suspend(status: "DISCONNECTED" | "ERROR"): void {
    this.#attempt += 1;
    this.#retry.cancel();
    this.#state.stats.stopped(status === "DISCONNECTED");
    this.#state.status = status;
    this.#owner.changed();
  }

  #beginEnd(): void {
    this.#attempt += 1;
    this.#retry.cancel();
    this.#closing?.end();
    this.#closing = null;
    this.#page.stop();
  }

  #failed(error: ErrorBody): void {
    this.#state.failed(error);
    this.#owner.changed();
  }

  #now(): number {
    return this.#ports.timers.now();
  }
}
