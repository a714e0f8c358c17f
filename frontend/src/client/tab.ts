/**
 * One tab: joins its view and its open messages to the connection, which is this tab's own or that
 * of the tab that leads.
 */

import { Connection, type ConnectionOptions } from "../connection/connection.js";
import { serverAddress } from "../connection/opening.js";
import { BoundedMap } from "../core/bounded-map.js";
import { serverName } from "../core/names.js";
import type { OutboxMessage } from "../core/outbox.js";
import { isClosed } from "../core/questions.js";
import { isTokenRefused } from "../core/retry-rules.js";
import { isEnd, type ChatMessage, type Run, type Snapshot } from "../core/snapshot.js";
import type { Update } from "../core/updates.js";
import type { ControlRequest, ErrorBody, ServerMessage } from "../protocol/messages.js";
import type { Ports } from "../ports.js";
import { View } from "../store/view.js";
import type { Command } from "../tabs/channel.js";
import type { FollowerOwner, Sync } from "../tabs/follower.js";
import { TabGroup } from "../tabs/group.js";
import type { Leadership } from "../tabs/leader.js";
import type { LeaderOwner } from "../tabs/service.js";
import { Answers } from "./answers.js";
import { clientClosed, outboxFull, tooManyRequests, userChanged } from "./errors.js";
import { LatestError } from "./latest-error.js";
import { Requests, type RequestCallbacks } from "./requests.js";
import { RunStops } from "./run-stops.js";
import { SnapshotComposer } from "./snapshot.js";
import { Submissions } from "./submissions.js";
import { Threads } from "./threads.js";
import { Updates } from "./updates.js";
import { UserTracker } from "./user.js";

const REMEMBERED = 1_000; // own ids: more than are under way at any time

export interface TabOptions extends ConnectionOptions {
  readonly threadId?: string | undefined;
  readonly isShared: boolean;
}

export interface TabOwner {
  /** The snapshot has changed. */
  changed(): void;
  /** A message of the server that concerns this tab. */
  message(message: ServerMessage): void;
  /** Reads a thread's history; rejects with `RequestError`. */
  loadThread(threadId: string): Promise<unknown>;
}

export class Tab {
  readonly threads: Threads;
  readonly stops: RunStops;
  readonly answers: Answers;
  readonly #ports: Ports;
  readonly #owner: TabOwner;
  readonly #view = new View();
  readonly #composer = new SnapshotComposer(this.#view);
  readonly #errors = new LatestError();
  readonly #connection: Connection;
  readonly #group: TabGroup;
  readonly #submissions: Submissions;
  readonly #requests: Requests;
  readonly #updates: Updates;
  readonly #user: UserTracker;
  /** Ids that this tab made: answers to the ids of other tabs do not concern it. */
  readonly #ownIds = new BoundedMap<string, true>(REMEMBERED);
  #snapshot: Snapshot | null = null;

  constructor(ports: Ports, options: TabOptions, owner: TabOwner) {
    this.#ports = ports;
    this.#owner = owner;
    const address = serverAddress(ports, options.url);
    const name = serverName(address);
    this.threads = new Threads(ports, `${name}:thread`, options.threadId, (id) => owner.loadThread(id));
    this.#submissions = new Submissions(ports.tab, `${name}:unsent`, (message) => this.#deliver(message));
    this.#requests = new Requests((id) => this.#connection.forget(id));
    const asking = {
      uniqueId: () => ports.uniqueId(),
      ask: this.ask.bind(this),
      forget: (id: string) => this.#requests.forget(id),
    };
    this.stops = new RunStops(asking);
    this.answers = new Answers(ports, this.#view, asking);
    this.#updates = new Updates(this.#view, this.#requests, this.stops, this.answers, {
      isAlone: () => this.#group.role === "alone",
      isOwnId: (id) => this.#ownIds.has(id),
      isShown: (threadId) => this.threads.shown.has(threadId),
      settled: (key, ok, error) => this.#settle(key, ok, error),
      connected: (verdict) => this.threads.connected(verdict),
      message: (message) => owner.message(message),
      changed: () => this.#changed(),
    });
    this.#user = new UserTracker(ports, `${name}:user`, {
      changed: (before) => this.#userChanged(before),
      leftBehind: (before) => this.#group.drop(before),
      leftBehindInTab: () => {
        this.#submissions.forgetStored();
        this.threads.renew();
      },
    });
    this.#connection = new Connection(ports, options, {
      lead: (subject) => this.#lead(subject),
      ready: () => this.#ready(),
      position: () => this.#view.position,
      isClosed: (questionId, runs) => isClosed(this.#view.question(questionId), runs),
      hasRuns: () => this.#view.hasRuns,
      update: (update) => this.#publish(update),
      written: (id) => {
        this.#group.post({ kind: "written", id });
        this.#requests.written(id);
      },
      // The user sees this tab; the connection may be that of a tab in the background.
      pageIsBack: () => this.#command("wake"),
      changed: () => this.#connectionChanged(),
    });
    this.#group = new TabGroup(ports, address, options.isShared, {
      asLeader: this.#asLeader(),
      asFollower: this.#asFollower(),
      lost: () => this.#rejoin(true),
    });
  }

  get snapshot(): Snapshot {
    this.#snapshot ??= this.#compose();
    return this.#snapshot;
  }

  connect(): void {
    this.#group.wantConnection(true);
    if (this.#group.role !== "follower") this.threads.store();
    this.#command("connect");
  }

  disconnect(): void {
    this.#group.wantConnection(false);
    this.#connection.stop();
    this.#leave(false);
    this.#changed();
  }

  forceReconnect(): void {
    this.#group.wantConnection(true);
    this.#command("forceReconnect");
  }

  clearError(): void {
    this.#errors.own(null);
    this.#command("clearError");
    this.#changed();
  }

  /** Ends everything: no timer and no callback of the tab is left. */
  close(): void {
    this.#connection.abort();
    this.#leave(false);
    this.answers.failAll(clientClosed(this.#now()));
    this.#requests.failAll(clientClosed(this.#now()));
    this.#submissions.giveUp();
  }

  run(runId: string): Run | undefined {
    return this.#view.run(runId);
  }

  message(id: string): ChatMessage | undefined {
    return this.#view.messages(this.threads.shown).find((message) => message.id === id);
  }

  /** Shows a message before it is sent. */
  show(message: OutboxMessage, content: string, type: string): void {
    this.#ownIds.set(message.key, true);
    this.#view.show(message, content, type, this.#now() / 1000);
    this.#changed();
  }

  openThread(threadId: string): void {
    this.threads.open(threadId);
    this.#changed();
  }

  /** Reports that a message cannot be sent. */
  reject(key: string | null, error: ErrorBody): void {
    if (key !== null) this.#view.fail(key, error);
    this.#errors.own(error);
    this.#changed();
  }

  /** Resolves to true once the server has confirmed the message, to false if it was refused. */
  submit({ key, message }: OutboxMessage): Promise<boolean> {
    // One key is one message, however often it is submitted.
    const known = this.#submissions.known(key);
    if (known !== null) return known;
    if (this.#submissions.isFull) {
      this.#publish({ kind: "settled", message: { key, message }, ok: false, error: outboxFull(this.#now()) });
      return Promise.resolve(false);
    }
    const { thread_id } = message.payload;
    if (thread_id !== undefined) this.threads.show(thread_id);
    return this.#handOver({ key, message: { ...message, timestamp: this.#now() / 1000 } });
  }

  ask(id: string, message: ControlRequest, callbacks: RequestCallbacks): void {
    this.#ownIds.set(id, true);
    this.#requests.add(id, message, callbacks);
    this.#pass(id, message);
  }

  // Messages and requests: to the connection of this tab, or to the leader.

  #handOver(message: OutboxMessage): Promise<boolean> {
    this.#ownIds.set(message.key, true);
    const done = this.#submissions.add(message);
    this.#changed();
    return done;
  }

  #deliver(message: OutboxMessage): void {
    if (!this.#group.submit(message) && this.#group.isLeader) this.#accept(message);
  }

  #pass(id: string, message: ControlRequest): void {
    if (this.#group.request(id, message) || this.#connection.request(id, message)) return;
    this.#requests.answer(id, { error: tooManyRequests(this.#now()) });
  }

  /** Hands everything that is open to a new leader. */
  #passAll(isQueued: (key: string) => boolean = () => false): void {
    for (const message of this.#submissions.open()) if (!isQueued(message.key)) this.#deliver(message);
    for (const [id, message] of this.#requests.open()) this.#pass(id, message);
  }

  /** Puts a message of this tab or another one into the outbox. */
  #accept(message: OutboxMessage): void {
    if (this.#connection.submit(message)) {
      this.#group.post({ kind: "accepted", key: message.key });
      this.#submissions.accepted(message.key);
    } else {
      this.#publish({ kind: "settled", message, ok: false, error: outboxFull(this.#now()) });
    }
  }

  // The leadership, and its user.

  #lead(subject: string | null): Promise<Leadership> {
    const isFirst = this.#user.use(subject);
    const leadership = this.#group.join(subject);
    if (isFirst) this.#restoreUnsent();
    if (this.#group.role === "follower") this.#passAll();
    this.#changed();
    return leadership;
  }

  #ready(): void {
    this.#group.ready();
    this.#passAll();
  }

  #restoreUnsent(): void {
    for (const message of this.#submissions.stored()) {
      this.#view.apply({ kind: "restored", message });
      void this.#handOver(message);
    }
  }

  #userChanged(before: string | null): void {
    this.#leave(false);
    this.#group.drop(before);
    this.#view.clear();
    this.#errors.own(null);
    this.answers.failAll(userChanged(this.#now()));
    this.#requests.failAll(userChanged(this.#now()));
    this.#submissions.clear();
    this.threads.renew();
  }

  #leave(wasTaken: boolean): void {
    // Stored before the leadership ends: the next leader reads it.
    this.#connection.resign(wasTaken);
    this.#group.leave();
    this.threads.cancelReloads();
  }

  /** Gives way to another tab, and waits to lead again after all others. */
  #rejoin(wasTaken: boolean): void {
    this.#leave(wasTaken);
    this.#connection.rejoin();
  }

  // What happens on the connection, here or in the tab that leads.

  /** Applies an update of this tab's own connection, in all tabs. */
  #publish(update: Update): void {
    this.#group.post({ kind: "update", update });
    this.#updates.apply(update);
  }

  #settle(key: string, ok: boolean, error: ErrorBody | null): void {
    if (ok) this.threads.confirmed();
    const isOwn = this.#submissions.settle({ key, ok, error });
    if (isOwn && error !== null) this.#errors.own(error);
  }

  #connectionChanged(): void {
    if (this.#group.role !== "follower") this.#errors.connection(this.#connection.state.lastError);
    this.#changed();
    this.#group.connectionChanged();
  }

  // The other tabs.

  #asLeader(): LeaderOwner {
    const connection = this.#connection;
    const view = this.#view;
    const submissions = this.#submissions;
    return {
      get state() {
        return connection.state;
      },
      get view() {
        return view.state();
      },
      get queued() {
        return connection.outbox.map(({ key }) => key);
      },
      get settled() {
        return submissions.settled;
      },
      accept: (message) => this.#accept(message),
      request: (id, message) => (connection.request(id, message) ? null : tooManyRequests(this.#now())),
      execute: (command) => this.#execute(command),
    };
  }

  #asFollower(): Omit<FollowerOwner, "following"> {
    return {
      apply: (update) => this.#updates.apply(update),
      sync: (message) => this.#sync(message),
      accepted: (key) => this.#submissions.accepted(key),
      written: (id) => this.#requests.written(id),
      isOwedAcceptance: () => this.#submissions.unaccepted > 0,
      stateChanged: ({ lastError }) => {
        this.#errors.connection(lastError);
        this.#changed();
      },
    };
  }

  #sync({ view, state, settled, queued }: Sync): void {
    this.#view.adopt(view);
    this.answers.check();
    for (const runId of this.stops.runs()) {
      if (isEnd(this.#view.run(runId)?.status ?? "running")) this.stops.ended(runId);
    }
    for (const { key, ok, error } of settled) this.#settle(key, ok, error);
    for (const key of queued) this.#submissions.accepted(key);
    const keys = new Set(queued);
    this.#passAll((key) => keys.has(key));
    if (state.status === "CONNECTED") this.threads.synced();
    this.#changed();
  }

  /** Executes a command here, or passes it to the leader. */
  #command(command: Command): void {
    if (this.#group.command(command)) return;
    if (command === "connect") this.#connection.start();
    else if (command === "forceReconnect") this.#connection.restart();
    else if (command === "wake") this.#connection.wake();
    else this.#connection.clearError();
  }

  /** Executes a command of another tab. */
  #execute(command: Command): void {
    const isConnect = command === "connect" || command === "forceReconnect";
    // The token of this tab was refused; the other tab may have a better one.
    if (isConnect && isTokenRefused(this.#connection.state)) this.#rejoin(false);
    else this.#command(command);
  }

  #compose(): Snapshot {
    const state = this.#group.leaderState ?? this.#connection.state;
    return this.#composer.compose({
      state,
      lastError: this.#errors.latest(state.lastError),
      role: this.#group.role,
      threadId: this.threads.current,
      threads: this.threads.shown,
      unaccepted: this.#submissions.unaccepted,
    });
  }

  #changed(): void {
    this.#snapshot = null;
    this.#owner.changed();
  }

  #now(): number {
    return this.#ports.timers.now();
  }
}
