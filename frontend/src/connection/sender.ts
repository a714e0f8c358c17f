/**
 * Messages on their way to the server: the outbox, whose messages are confirmed, and requests, which
 * are answered directly. Keeps to the server's rate and size limits.
 */

import { resendDelay } from "../core/backoff.js";
import { BoundedMap } from "../core/bounded-map.js";
import { hasRoom, isStorable, Outbox, type OutboxMessage } from "../core/outbox.js";
import { RateWindow } from "../core/rate.js";
import { localError, SEND_AGAIN } from "../core/retry-rules.js";
import { bytesFault, sizeFault } from "../core/size.js";
import type { Update } from "../core/updates.js";
import type { ClientMessage, ControlRequest, ErrorBody, ServerLimits } from "../protocol/messages.js";
import type { SessionStore } from "../store/session-store.js";
import type { NamedTimers } from "./timers.js";

const MAX_REQUESTS = 100; // that wait for a connection or an answer; a page makes a few at a time

/** What a sender needs of a line. */
export interface Writable {
  readonly isWritable: boolean;
  /** Whether a message may have bytes. */
  readonly carriesBytes: boolean;
  send(message: ClientMessage): void;
}

export interface SenderEvents {
  update(update: Update): void;
  /** A request was written. */
  written(id: string): void;
  /** An error of a message or of the storage. */
  failed(error: ErrorBody): void;
  queued(count: number): void;
  /** A message waits that the draining server does not accept. */
  urgent(): void;
}

interface WaitingRequest {
  readonly message: ControlRequest;
  isSent: boolean;
}

export class Sender {
  readonly #timers: NamedTimers;
  readonly #events: SenderEvents;
  readonly #outbox = new Outbox();
  readonly #rate = new RateWindow();
  readonly #requests = new Map<string, WaitingRequest>();
  /** Settled answers that were sent before: the server may still reject them. */
  readonly #late = new BoundedMap<string, true>(MAX_REQUESTS);
  #maxSize = Infinity;
  #store: SessionStore | null = null;
  #line: Writable | null = null;
  #isDraining = false;

  constructor(timers: NamedTimers, events: SenderEvents) {
    this.#timers = timers;
    this.#events = events;
  }

  get messages(): readonly OutboxMessage[] {
    return this.#outbox.messages();
  }

  set limits({ max_message_rate, max_message_size }: ServerLimits) {
    this.#rate.limit = max_message_rate;
    this.#maxSize = max_message_size;
  }

  /** Takes over the stored outbox of a user. */
  load(store: SessionStore): void {
    this.#store = store;
    this.#outbox.clear();
    for (const message of store.loadOutbox()) {
      this.#outbox.add(message);
      this.#events.update({ kind: "restored", message });
    }
    this.#countQueued();
  }

  /** Drops everything in memory; the stored outbox belongs to the next leader. */
  unload(): void {
    this.#store = null;
    this.#outbox.clear();
    this.#requests.clear();
    this.#countQueued();
  }

  /** Accepts a message for sending; false if the outbox is full. */
  submit(message: OutboxMessage): boolean {
    if (this.#outbox.get(message.key) !== undefined) return true;
    if (this.#outbox.isFull || !hasRoom(this.#outbox.messages(), message.message)) return false;
    this.#outbox.add(message);
    this.#saveOutbox();
    this.#flush();
    return true;
  }

  /**
   * Accepts a request; false if too many are open. A request that is not answered is sent again on
   * the next line.
   */
  request(id: string, message: ControlRequest): boolean {
    if (this.#requests.has(id)) return true;
    if (this.#requests.size >= MAX_REQUESTS) return false;
    this.#requests.set(id, { message, isSent: false });
    this.#flush();
    return true;
  }

  /** Forgets a request that is answered or given up. Returns whether it was open. */
  forget(id: string): boolean {
    const request = this.#requests.get(id);
    if (request?.message.type === "answer" && request.isSent) this.#late.set(id, true);
    return this.#requests.delete(id);
  }

  /** Whether this is an answer that was sent, and settled before the server replied to it. */
  isLate(id: string | undefined): boolean {
    return id !== undefined && this.#late.has(id);
  }

  /** Removes the answers to a closed question from what is sent after a reconnection. */
  forgetAnswers(questionId: string): void {
    for (const [id, { message }] of this.#requests) {
      if (message.type === "answer" && message.payload.question_id === questionId) this.forget(id);
    }
  }

  /** Forgets the requests to stop a run that has ended. */
  forgetStops(runId: string): void {
    for (const [id, { message }] of this.#requests) {
      if (message.type === "stop_agent" && message.payload.run_id === runId) this.#requests.delete(id);
    }
  }

  /** @param isClosed Whether a question is closed: its answers are not sent again. */
  attach(line: Writable, isClosed: (questionId: string) => boolean): void {
    this.#line = line;
    for (const [id, { message }] of this.#requests) {
      if (message.type === "answer" && isClosed(message.payload.question_id)) this.#requests.delete(id);
    }
    this.#isDraining = false;
    this.#flush();
  }

  /** The line is lost: everything unanswered is sent again on the next one. */
  detach(): void {
    this.#line = null;
    this.#timers.cancel("flush");
    for (const request of this.#requests.values()) request.isSent = false;
    const keys = this.#outbox.connectionLost();
    if (keys.length > 0) this.#events.update({ kind: "unconfirmed", keys });
  }

  /** The server drains: messages wait for the next line. */
  drain(): void {
    this.#isDraining = true;
    this.#flush();
  }

  confirm(key: string): void {
    this.#settle(key, true, null);
  }

  /** Handles the rejection of a message; a key that is not in the outbox is ignored. */
  reject(key: string, error: ErrorBody): void {
    if (this.#outbox.get(key) === undefined) return;
    if (!SEND_AGAIN.has(error.code)) {
      this.#settle(key, false, error);
      return;
    }
    // A draining server accepts nothing any more: the message waits for the next line.
    const isDraining = error.code === "SERVER_DRAINING";
    const delay = isDraining ? Infinity : resendDelay(this.#outbox.rejections(key), error.retry_after_ms);
    this.#outbox.holdBack(key, this.#timers.now() + delay);
    this.#flush();
  }

  #flush(): void {
    const line = this.#line;
    if (line?.isWritable !== true) return;
    for (const [id, request] of this.#requests) {
      if (request.isSent) continue;
      const fault = this.#fault(line, request.message);
      if (fault !== null) {
        this.#requests.delete(id);
        const error = { type: "error", payload: fault, timestamp: fault.timestamp, correlation_id: id } as const;
        this.#events.update({ kind: "message", message: error });
        continue;
      }
      request.isSent = true;
      line.send(request.message);
      // No request waits for the answer to these.
      if (request.message.type === "ping" || request.message.type === "pong") this.#requests.delete(id);
      this.#events.written(id);
    }
    while (!this.#isDraining) {
      const now = this.#timers.now();
      const message = this.#outbox.next(now);
      const wait = message === null ? this.#outbox.wait(now) : this.#send(line, message, now);
      if (wait > 0 && wait !== Infinity) this.#timers.set("flush", wait, () => this.#flush());
      if (wait > 0 || message === null) break;
    }
    if (this.#isDraining && this.#outbox.isWaiting) this.#events.urgent();
    this.#countQueued();
  }

  /** Writes a message, or fails one that is too large; returns the ms that it has to wait instead. */
  #send(line: Writable, message: OutboxMessage, now: number): number {
    const fault = this.#fault(line, message.message);
    if (fault !== null) {
      this.#events.failed(fault);
      this.#settle(message.key, false, fault);
      return 0;
    }
    const wait = this.#rate.take(now);
    if (wait > 0) return wait;
    this.#outbox.markSent(message.key);
    this.#events.update({ kind: "sending", message });
    line.send(message.message);
    return 0;
  }

  /** The error of a message that this line cannot carry; null if it can. */
  #fault(line: Writable, message: ClientMessage): ErrorBody | null {
    const now = this.#timers.now();
    return bytesFault(message, line.carriesBytes, now) ?? sizeFault(message, this.#maxSize, now);
  }

  #settle(key: string, ok: boolean, error: ErrorBody | null): void {
    const message = this.#outbox.settle(key);
    if (message === null) return;
    this.#saveOutbox();
    this.#events.update({ kind: "settled", message, ok, error });
  }

  #saveOutbox(): void {
    this.#countQueued();
    if (this.#store === null || this.#store.saveOutbox(this.#outbox.messages().filter(isStorable))) return;
    const help = "Keep this page open until everything is sent.";
    const error = "The browser has no room for unsent messages.";
    this.#events.failed(localError(this.#timers.now(), "STORAGE_FULL", error, help));
  }

  #countQueued(): void {
    this.#events.queued(this.#outbox.size);
  }
}
