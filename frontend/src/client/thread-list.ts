/**
 * The list of the user's threads, the newest update first. It is read at each connection, kept up to
 * date by `thread_changed`, and read again after events of this session, which the server tells only
 * to the other sessions. The tabs of a session share what one of them reads.
 */

import { resendDelay } from "../core/backoff.js";
import { LATER } from "../core/retry-rules.js";
import { withChanged, withThreads, type ThreadList } from "../core/thread-list.js";
import { NamedTimers } from "../connection/timers.js";
import type { ListedThread, ServerMessage } from "../protocol/messages.js";
import type { Cancel, Ports } from "../ports.js";
import type { Asking } from "./requests.js";

const SHARED = "threads:"; // the ids of requests whose answer concerns all tabs
const SETTLED = 300; // ms after an event of this session: a confirmation and its start are one change
const READS = 3; // at most in any three seconds, however many events there are
const READS_WITHIN = 3_000; // ms
const FOLLOWS = 800; // ms by which a tab without the connection waits for the answer of the other one
const SPREAD = 1_000; // ms

const TOUCHES: ReadonlySet<string> = new Set<ServerMessage["type"]>([
  "message_confirmed",
  "agent_completed",
  "agent_asking",
  "agent_answered",
]);

export interface ThreadListOwner extends Asking {
  /** Whether this tab has the connection. */
  isFirst(): boolean;
  isConnected(): boolean;
  changed(): void;
}

export class ThreadLists {
  readonly #ports: Pick<Ports, "random">;
  readonly #timers: NamedTimers;
  readonly #owner: ThreadListOwner;
  #users = 0;
  #rejections = 0;
  /** When the list was read, the last times. */
  #reads: readonly number[] = [];
  #list: ThreadList = EMPTY;

  constructor(ports: Pick<Ports, "timers" | "random">, owner: ThreadListOwner) {
    this.#ports = ports;
    this.#timers = new NamedTimers(ports.timers);
    this.#owner = owner;
  }

  get value(): ThreadList {
    return this.#list;
  }

  /** Keeps the list up to date until the returned function is called. */
  follow(): Cancel {
    this.#users += 1;
    if (this.#users === 1 && this.#owner.isConnected()) this.#read();
    let isOver = false;
    return () => {
      if (!isOver) this.#users -= 1;
      isOver = true;
    };
  }

  /** A connection is established: changes of before are not repeated. */
  connected(): void {
    if (this.#users > 0) this.#readAfter(0);
  }

  /** A message of the server, for any tab. */
  received(message: ServerMessage): void {
    if (message.type === "connection_established") {
      this.connected();
    } else if (message.type === "thread_changed") {
      this.#set(withChanged(this.#list, message.payload));
    } else if (message.type === "thread_list") {
      if (message.correlation_id?.startsWith(SHARED) !== true) return;
      this.#timers.cancelAll();
      this.#rejections = 0;
      this.#set(withThreads(this.#list, message.payload));
    } else if (TOUCHES.has(message.type) && this.#users > 0) {
      this.#readAfter(SETTLED);
    }
  }

  /** Adds older threads to the list. */
  add(threads: readonly ListedThread[], hasMore: boolean): void {
    const known = new Set(this.#list.threads.map(({ thread_id }) => thread_id));
    const older = threads.filter(({ thread_id }) => !known.has(thread_id));
    this.#set({ ...this.#list, threads: [...this.#list.threads, ...older], hasMore });
  }

  reset(): void {
    this.#timers.cancelAll();
    this.#list = EMPTY;
  }

  close(): void {
    this.#timers.cancelAll();
    this.#users = 0;
  }

  #readAfter(ms: number): void {
    if (this.#timers.has("read")) return;
    const behind = this.#owner.isFirst() ? 0 : FOLLOWS + Math.floor(this.#ports.random() * SPREAD);
    const oldest = this.#reads.length < READS ? -Infinity : (this.#reads[0] ?? -Infinity);
    const gap = oldest + READS_WITHIN - this.#timers.now();
    this.#timers.set("read", Math.max(ms, gap) + behind, () => this.#read());
  }

  #read(): void {
    if (this.#users === 0) return;
    this.#reads = [...this.#reads, this.#timers.now()].slice(-READS);
    const id = `${SHARED}${this.#owner.uniqueId()}`;
    this.#owner.ask(id, { type: "list_threads", payload: {}, correlation_id: id }, {
      written: () => undefined,
      answered: ({ error }) => {
        if (error === null) return;
        this.#set({ ...this.#list, error });
        if (!LATER.has(error.code)) return;
        this.#timers.set("read", resendDelay(this.#rejections, error.retry_after_ms), () => this.#read());
        this.#rejections += 1;
      },
    });
  }

  #set(list: ThreadList): void {
    if (list === this.#list) return;
    this.#list = list;
    this.#owner.changed();
  }
}

const EMPTY: ThreadList = { threads: [], hasMore: false, isLoaded: false, error: null };
