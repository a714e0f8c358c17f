/** The threads that this tab shows, and when their history is read from the server. */

import { resendDelay, Spacing } from "../core/backoff.js";
import { BoundedMap } from "../core/bounded-map.js";
import { LATER } from "../core/retry-rules.js";
import type { Verdict } from "../protocol/messages.js";
import type { Cancel, Ports } from "../ports.js";
import { RequestError } from "./api.js";
import { NOT_CONNECTED } from "./errors.js";
import { tryToStore } from "./storage.js";

const RELOADS = 3; // of a thread whose history the server could not send
const SPACED = 100; // threads whose last reloads are remembered
const RELOAD_AFTER = 5_000; // ms, where the server states no delay

export interface ThreadsOwner {
  /** Reads a thread's history from the server; rejects with `RequestError`. */
  load(threadId: string): Promise<unknown>;
  /** Whether a thread is watched: then its history is read once it is joined. */
  isWatched(threadId: string): boolean;
}

export class Threads {
  readonly #ports: Pick<Ports, "timers" | "tab" | "uniqueId">;
  readonly #name: string;
  readonly #isChosen: boolean;
  readonly #owner: ThreadsOwner;
  readonly #reloads = new Map<string, Cancel>();
  readonly #spacings = new BoundedMap<string, Spacing>(SPACED);
  /** Threads whose history could not be asked for, because there was no connection. */
  readonly #owed = new Set<string>();
  #current: string;
  #shown: ReadonlySet<string>;
  #hasHistory: boolean;
  #hasConnected = false;

  /**
   * @param name Of the stored thread id.
   * @param chosen The thread that the application chose, if it did.
   */
  constructor(
    ports: Pick<Ports, "timers" | "tab" | "uniqueId">,
    name: string,
    chosen: string | undefined,
    owner: ThreadsOwner,
  ) {
    this.#ports = ports;
    this.#name = name;
    this.#isChosen = chosen !== undefined;
    this.#owner = owner;
    const stored = ports.tab.get(name);
    this.#hasHistory = chosen !== undefined || stored !== null;
    this.#current = chosen ?? stored ?? ports.uniqueId();
    this.#shown = new Set([this.#current]);
  }

  /** The thread that new messages belong to. */
  get current(): string {
    return this.#current;
  }

  /** The threads that are shown: another set after each change. */
  get shown(): ReadonlySet<string> {
    return this.#shown;
  }

  show(threadId: string): void {
    if (!this.#shown.has(threadId)) this.#shown = new Set([...this.#shown, threadId]);
  }

  open(threadId: string): void {
    this.#hasHistory = true;
    this.#showOnly(threadId);
    if (!this.#owner.isWatched(threadId)) this.#reload(threadId, 0);
  }

  /** Reads a thread's history, now or soon; an unknown thread is empty. */
  reload(threadId: string): void {
    const delay = this.#spacingOf(threadId).delay(this.#ports.timers.now());
    if (delay === 0) this.#reload(threadId, 0);
    else if (!this.#reloads.has(threadId)) this.#reloadAfter(threadId, delay, 0);
  }

  /** Begins a new thread for another user, unless the application chose the thread. */
  renew(): void {
    if (!this.#isChosen) {
      this.#current = this.#ports.uniqueId();
      this.#hasHistory = false;
    }
    this.#showOnly(this.#current);
  }

  /** Stores the current thread, to be found again after a reload. */
  store(): void {
    tryToStore(this.#ports.tab, this.#name, this.#current);
  }

  /** A message was confirmed, so the server has a history. */
  confirmed(): void {
    this.#hasHistory = true;
  }

  /** The connection is established: a resume without the verdict `exact` may lack events. */
  connected(verdict: Verdict): void {
    const isFirst = !this.#hasConnected;
    this.#hasConnected = true;
    const isComplete = !this.#hasHistory || (!isFirst && verdict === "exact");
    for (const thread of isComplete ? this.#owed : this.#shown) {
      if (!this.#owner.isWatched(thread)) this.reload(thread);
    }
    this.#owed.clear();
  }

  /** The tab received the state of a leader that is connected. */
  synced(): void {
    if (this.#hasConnected) return;
    this.#hasConnected = true;
    if (this.#hasHistory && !this.#owner.isWatched(this.#current)) this.reload(this.#current);
  }

  cancelReloads(): void {
    for (const cancel of this.#reloads.values()) cancel();
    this.#reloads.clear();
  }

  #showOnly(threadId: string): void {
    this.#current = threadId;
    this.#shown = new Set([threadId, ...[...this.#shown].filter((id) => this.#owner.isWatched(id))]);
    this.store();
  }

  #spacingOf(thread: string): Spacing {
    const known = this.#spacings.get(thread) ?? new Spacing();
    this.#spacings.set(thread, known);
    return known;
  }

  #reload(thread: string, rejections: number): void {
    this.#reloads.get(thread)?.();
    this.#reloads.delete(thread);
    this.#spacingOf(thread).done(this.#ports.timers.now());
    this.#owner.load(thread).catch((error: unknown) => {
      if (!(error instanceof RequestError)) throw error;
      const { code, retry_after_ms = RELOAD_AFTER } = error.body;
      if (code === NOT_CONNECTED) this.#owed.add(thread);
      if (rejections === RELOADS || !LATER.has(code)) return;
      this.#reloadAfter(thread, resendDelay(rejections, retry_after_ms), rejections + 1);
    });
  }

  #reloadAfter(thread: string, delay: number, rejections: number): void {
    this.#reloads.get(thread)?.();
    this.#reloads.set(thread, this.#ports.timers.setTimeout(() => this.#reload(thread, rejections), delay));
  }
}
