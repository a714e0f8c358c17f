/**
 * Messages from their submission to their confirmation, in order. What is not settled survives a
 * lost line and a reload, and goes out again under its old key: the server runs it once.
 */

import { isObject } from "../protocol/check.js";
import { outgoingFault } from "../protocol/encode.js";
import type { ClientMessage } from "../protocol/messages.js";

export type Work = Extract<ClientMessage, { readonly type: "user_message" | "agent_request" }>;

export interface Entry {
  /** The correlation id: what makes sending again harmless. */
  readonly key: string;
  readonly message: Work;
}

export const OUTBOX_MESSAGES = 500; // more than anyone types offline; beyond it a message is refused

interface Waiting extends Entry {
  sent: boolean;
}

export class Outbox {
  #entries: Waiting[] = [];
  #closedUntil = 0;

  get size(): number {
    return this.#entries.length;
  }

  get isFull(): boolean {
    return this.#entries.length >= OUTBOX_MESSAGES;
  }

  get(key: string): Entry | undefined {
    return this.#entries.find((entry) => entry.key === key);
  }

  add(entry: Entry): void {
    this.#entries.push({ ...entry, sent: false });
  }

  /** The next one to write, unless those behind a held one have to wait. */
  next(now: number): Entry | null {
    if (now < this.#closedUntil) return null;
    return this.#entries.find((entry) => !entry.sent) ?? null;
  }

  /** How long until there may be a next one, in ms. */
  wait(now: number): number {
    return Math.max(0, this.#closedUntil - now);
  }

  markSent(key: string): void {
    this.#set(key, true);
  }

  /** It was refused for now: it goes again, in its place, and nothing behind it overtakes. */
  holdBack(key: string, until: number): void {
    this.#set(key, false);
    this.#closedUntil = Math.max(this.#closedUntil, until);
  }

  settle(key: string): Entry | null {
    const index = this.#entries.findIndex((entry) => entry.key === key);
    return index < 0 ? null : (this.#entries.splice(index, 1)[0] ?? null);
  }

  /** The line is gone: nobody knows of what was sent. Returns those keys. */
  lineLost(): string[] {
    this.#closedUntil = 0;
    const unknown = this.#entries.filter((entry) => entry.sent);
    for (const entry of unknown) entry.sent = false;
    return unknown.map((entry) => entry.key);
  }

  entries(): Entry[] {
    return this.#entries.map(({ key, message }) => ({ key, message }));
  }

  clear(): void {
    this.#entries = [];
    this.#closedUntil = 0;
  }

  #set(key: string, sent: boolean): void {
    const entry = this.#entries.find((candidate) => candidate.key === key);
    if (entry !== undefined) entry.sent = sent;
  }
}

/** What a storage had, as far as it is an outbox: it may be old, cut or somebody else's. */
export function readEntries(text: string | null): Entry[] {
  if (text === null) return [];
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    return [];
  }
  if (!Array.isArray(value)) return [];
  return value.filter(isEntry).slice(0, OUTBOX_MESSAGES);
}

export function isEntry(value: unknown): value is Entry {
  if (!isObject(value) || !isObject(value["message"])) return false;
  const { key, message } = value;
  return (
    typeof key === "string" &&
    (message["type"] === "user_message" || message["type"] === "agent_request") &&
    message["correlation_id"] === key &&
    outgoingFault(message) === null
  );
}
