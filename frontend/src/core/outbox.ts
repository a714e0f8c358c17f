/**
 * Messages from their submission to their confirmation, in order. Unconfirmed messages survive a
 * lost connection and a reload, and are sent again under the same key: the server runs each once.
 */

import { isObject } from "../protocol/check.js";
import { outgoingFault } from "../protocol/encode.js";
import type { ClientMessage, ListedFile, RunRequest } from "../protocol/messages.js";
import { listedFiles } from "../protocol/shapes.js";

export interface OutboxMessage {
  /** The correlation id, which makes sending again harmless. */
  readonly key: string;
  readonly message: RunRequest;
  /** The files that the message names, as far as this client knows them: only for display. */
  readonly files?: readonly ListedFile[];
}

/** Of messages that wait, together: they are only in memory. */
export const OUTBOX_BYTES = 8 * 1024 * 1024;
export const OUTBOX_MESSAGES = 500; // more than a user types offline; beyond it messages are refused

interface Waiting extends OutboxMessage {
  sent: boolean;
  rejections: number;
}

export class Outbox {
  #messages: Waiting[] = [];
  #closedUntil = 0;

  get size(): number {
    return this.#messages.length;
  }

  get isFull(): boolean {
    return this.#messages.length >= OUTBOX_MESSAGES;
  }

  /** Whether a message waits to be written, now or later. */
  get isWaiting(): boolean {
    return this.#messages.some((waiting) => !waiting.sent);
  }

  get(key: string): OutboxMessage | undefined {
    return this.#find(key);
  }

  add(message: OutboxMessage): void {
    this.#messages.push({ ...message, sent: false, rejections: 0 });
  }

  /** The next message to write; null while a rejected message holds back those behind it. */
  next(now: number): OutboxMessage | null {
    if (now < this.#closedUntil) return null;
    return this.#messages.find((waiting) => !waiting.sent) ?? null;
  }

  /** Milliseconds until `next` may return a message. */
  wait(now: number): number {
    return Math.max(0, this.#closedUntil - now);
  }

  markSent(key: string): void {
    const waiting = this.#find(key);
    if (waiting !== undefined) waiting.sent = true;
  }

  /** How often the server has rejected a message for now. */
  rejections(key: string): number {
    return this.#find(key)?.rejections ?? 0;
  }

  /** The server rejected a message for now: it is sent again later, before those behind it. */
  holdBack(key: string, until: number): void {
    const waiting = this.#find(key);
    if (waiting !== undefined) {
      waiting.sent = false;
      waiting.rejections += 1;
    }
    this.#closedUntil = Math.max(this.#closedUntil, until);
  }

  settle(key: string): OutboxMessage | null {
    const index = this.#messages.findIndex((waiting) => waiting.key === key);
    return index < 0 ? null : (this.#messages.splice(index, 1)[0] ?? null);
  }

  /** The connection is lost. Returns the keys of the messages that it leaves unconfirmed. */
  connectionLost(): string[] {
    this.#closedUntil = 0;
    const unconfirmed = this.#messages.filter((waiting) => waiting.sent);
    for (const waiting of unconfirmed) waiting.sent = false;
    return unconfirmed.map((waiting) => waiting.key);
  }

  messages(): OutboxMessage[] {
    return this.#messages.map(({ sent: _, rejections: __, ...message }) => message);
  }

  clear(): void {
    this.#messages = [];
    this.#closedUntil = 0;
  }

  #find(key: string): Waiting | undefined {
    return this.#messages.find((waiting) => waiting.key === key);
  }
}

const bytesIn = ({ data }: ClientMessage): number => data?.bytes.byteLength ?? 0;

/** Whether a message fits among those that wait, by the bytes that they hold in memory. */
export function hasRoom(waiting: readonly OutboxMessage[], message: ClientMessage): boolean {
  const added = bytesIn(message);
  return added === 0 || waiting.reduce((sum, one) => sum + bytesIn(one.message), added) <= OUTBOX_BYTES;
}

/** Whether a message can survive a reload: one with bytes is only in memory. */
export const isStorable = ({ message }: OutboxMessage): boolean => message.data === undefined;

/** The valid messages of a stored outbox, which may be old, incomplete, or written by other code. */
export function readMessages(text: string | null): OutboxMessage[] {
  if (text === null) return [];
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    return [];
  }
  if (!Array.isArray(value)) return [];
  return value.filter(isOutboxMessage).slice(0, OUTBOX_MESSAGES);
}

function isOutboxMessage(value: unknown): value is OutboxMessage {
  if (!isObject(value) || !isObject(value["message"])) return false;
  const { key, message, files } = value;
  return (
    typeof key === "string" &&
    (message["type"] === "user_message" || message["type"] === "agent_request") &&
    message["correlation_id"] === key &&
    outgoingFault(message) === null &&
    (files === undefined || listedFiles(files, "$") === null)
  );
}
