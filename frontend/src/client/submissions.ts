/**
 * The messages of this tab from their submission to their confirmation. Until an outbox has accepted
 * a message, here or in another tab, it is kept in the storage of this tab.
 */

import { BoundedMap } from "../core/bounded-map.js";
import { isStorable, OUTBOX_MESSAGES, readMessages, type OutboxMessage } from "../core/outbox.js";
import type { Storage } from "../ports.js";
import type { Settled } from "../tabs/channel.js";
import { tryToStore } from "./storage.js";

const REMEMBERED = 1_000; // settled messages: more than are under way at any time

interface Pending {
  readonly message: OutboxMessage;
  /** The promises of those that sent it, which is one; null once it was settled early. */
  waiting: Deferred | null;
  isAccepted: boolean;
}

interface Deferred {
  readonly done: Promise<boolean>;
  readonly resolve: (ok: boolean) => void;
}

function deferred(): Deferred {
  let resolve: (ok: boolean) => void = () => undefined;
  const done = new Promise<boolean>((settle) => {
    resolve = settle;
  });
  return { done, resolve };
}

export class Submissions {
  readonly #storage: Storage;
  readonly #name: string;
  readonly #deliver: (message: OutboxMessage) => void;
  readonly #pending = new Map<string, Pending>();
  readonly #settled = new BoundedMap<string, Settled>(REMEMBERED);

  /**
   * @param name Of the stored messages.
   * @param deliver Hands a message to the outbox, or to the tab that has it.
   */
  constructor(storage: Storage, name: string, deliver: (message: OutboxMessage) => void) {
    this.#storage = storage;
    this.#name = name;
    this.#deliver = deliver;
  }

  /** The messages that are not settled. */
  open(): readonly OutboxMessage[] {
    return [...this.#pending.values()].map(({ message }) => message);
  }

  /** The number of messages that no outbox has accepted yet. */
  get unaccepted(): number {
    return this.#unaccepted().length;
  }

  /** The outcomes of the last messages, of this tab and of others. */
  get settled(): readonly Settled[] {
    return this.#settled.values();
  }

  /** The outcome of a message with this key that was submitted before; null for a new key. */
  known(key: string): Promise<boolean> | null {
    const pending = this.#pending.get(key);
    if (pending !== undefined) return (pending.waiting ??= deferred()).done;
    return this.#settled.get(key)?.ok === true ? Promise.resolve(true) : null;
  }

  get isFull(): boolean {
    return this.#pending.size >= OUTBOX_MESSAGES;
  }

  /** Resolves once the message is settled: true if it was confirmed. */
  add(message: OutboxMessage): Promise<boolean> {
    const waiting = deferred();
    this.#pending.set(message.key, { message, waiting, isAccepted: false });
    this.#save();
    this.#deliver(message);
    return waiting.done;
  }

  /** The messages that were stored before a reload. */
  stored(): readonly OutboxMessage[] {
    return readMessages(this.#storage.get(this.#name)).filter(({ key }) => !this.#pending.has(key));
  }

  forgetStored(): void {
    this.#storage.remove(this.#name);
  }

  /** An outbox has the message, and stores it. */
  accepted(key: string): void {
    const pending = this.#pending.get(key);
    if (pending === undefined || pending.isAccepted) return;
    pending.isAccepted = true;
    this.#save();
  }

  /** Returns whether the message was open in this tab. */
  settle(settled: Settled): boolean {
    this.#settled.set(settled.key, settled);
    const pending = this.#pending.get(settled.key);
    if (pending === undefined) return false;
    this.#pending.delete(settled.key);
    this.#save();
    pending.waiting?.resolve(settled.ok);
    return true;
  }

  /** Whether a promise waits for its message. */
  get isWaiting(): boolean {
    return [...this.#pending.values()].some(({ waiting }) => waiting !== null);
  }

  /** Resolves all promises to false. The messages stay, and are sent with the next connection. */
  settleEarly(): void {
    for (const pending of this.#pending.values()) {
      pending.waiting?.resolve(false);
      pending.waiting = null;
    }
  }

  /** Gives up all open messages. What is stored stays stored. */
  giveUp(): void {
    this.settleEarly();
    this.#pending.clear();
  }

  /** Drops everything: the messages belong to another user. */
  clear(): void {
    this.#settled.clear();
    this.giveUp();
    this.#save();
  }

  #unaccepted(): readonly OutboxMessage[] {
    return [...this.#pending.values()].filter(({ isAccepted }) => !isAccepted).map(({ message }) => message);
  }

  #save(): void {
    const messages = this.#unaccepted().filter(isStorable);
    if (messages.length === 0) this.#storage.remove(this.#name);
    else tryToStore(this.#storage, this.#name, JSON.stringify(messages));
  }
}
