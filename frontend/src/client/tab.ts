/**
 * One tab: joins its view and its open messages to the connection, which is this tab's own or that
 * of the tab that leads.
 */

import { Connection, type ConnectionOptions } from "../connection/connection.js";
import { serverAddress } from "../connection/opening.js";
import { BoundedMap } from "../core/bounded-map.js";
import { serverName } from "../core/names.js";
import type { OutboxMessage } from "../core/outbox.js";
import { isTokenRefused } from "../core/retry-rules.js";
import { isEnd, type ChatMessage, type Run, type Snapshot } from "../core/snapshot.js";
import type { Update } from "../core/updates.js";
import type { ControlRequest, ErrorBody, ServerMessage } from "../protocol/messages.js";
import type { Ports } from "../ports.js";
import { View, type Outcome } from "../store/view.js";
import { isFromFollower, type Command, type TabMessage } from "../tabs/channel.js";
import { Follower, type Following, type Sync } from "../tabs/follower.js";
import { LeaderElection, type Leadership } from "../tabs/leader.js";
import { LeaderService } from "../tabs/service.js";
import { clientClosed, outboxFull, tooManyRequests, userChanged } from "./errors.js";
import { LatestError } from "./latest-error.js";
import { Requests, type RequestCallbacks } from "./requests.js";
import { RunStops } from "./run-stops.js";
import { SnapshotComposer } from "./snapshot.js";
import { Submissions } from "./submissions.js";
import { Threads } from "./threads.js";
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
  readonly #ports: Ports;
  readonly #owner: TabOwner;
  readonly #view = new View();
  readonly #composer = new SnapshotComposer(this.#view);
  readonly #errors = new LatestError();
  readonly #connection: Connection;
  readonly #election: LeaderElection;
  readonly #follower: Follower;
  readonly #service: LeaderService;
  readonly #submissions: Submissions;
  readonly #requests: Requests;
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
    this.stops = new RunStops({
      uniqueId: () => ports.uniqueId(),
      ask: (id, message, callbacks) => this.ask(id, message, callbacks),
      forget: (id) => this.#requests.forget(id),
    });
    this.#user = new UserTracker(ports, `${name}:user`, {
      changed: (before) => this.#userChanged(before),
      leftBehind: (before) => this.#election.drop(before),
      leftBehindInTab: () => {
        this.#submissions.forgetStored();
        this.threads.renew();
      },
    });
    this.#election = new LeaderElection(ports, address, options.isShared, {
      received: (message) => this.#received(message),
      lost: () => this.#rejoin(true),
    });
    this.#follower = new Follower(ports.timers, {
      following: () => this.#following(),
      apply: (update) => this.#apply(update),
      sync: (message) => this.#sync(message),
      accepted: (key) => this.#submissions.accepted(key),
      written: (id) => this.#requests.written(id),
      isOwedAcceptance: () => this.#submissions.unaccepted > 0,
      stateChanged: ({ lastError }) => {
        this.#errors.connection(lastError);
        this.#changed();
      },
    });
    this.#connection = new Connection(ports, options, {
      lead: (subject) => this.#lead(subject),
      ready: () => this.#ready(),
      position: () => this.#view.position,
      update: (update) => this.#publish(update),
      written: (id) => {
        this.#election.channel?.post({ kind: "written", id });
        this.#requests.written(id);
      },
      // The user sees this tab; the connection may be that of a tab in the background.
      pageIsBack: () => this.#command("wake"),
      changed: () => this.#connectionChanged(),
    });
    this.#service = this.#createService();
  }

  get snapshot(): Snapshot {
    this.#snapshot ??= this.#compose();
    return this.#snapshot;
  }

  connect(): void {
    this.#follower.wantConnection(!this.#election.isLeader);
    if (this.#follower.command("connect")) return;
    this.threads.store();
    this.#connection.start();
  }

  disconnect(): void {
    this.#follower.wantConnection(false);
    this.#connection.stop();
    this.#leave(false);
    this.#changed();
  }

  forceReconnect(): void {
    this.#follower.wantConnection(!this.#election.isLeader);
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
    if (this.#election.role === "follower") this.#follower.ask({ kind: "submit", message });
    else if (this.#election.isLeader) this.#accept(message);
  }

  #pass(id: string, message: ControlRequest): void {
    if (this.#election.role === "follower") {
      this.#election.channel?.post({ kind: "request", id, message });
    } else if (!this.#connection.request(id, message)) {
      this.#requests.answer(id, { error: tooManyRequests(this.#now()) });
    }
  }

  /** Hands everything that is open to a new leader. */
  #passAll(isQueued: (key: string) => boolean = () => false): void {
    for (const message of this.#submissions.open()) if (!isQueued(message.key)) this.#deliver(message);
    for (const [id, message] of this.#requests.open()) this.#pass(id, message);
  }

  /** Puts a message of this tab or another one into the outbox. */
  #accept(message: OutboxMessage): void {
    if (this.#connection.submit(message)) {
      this.#election.channel?.post({ kind: "accepted", key: message.key });
      this.#submissions.accepted(message.key);
    } else {
      this.#publish({ kind: "settled", message, ok: false, error: outboxFull(this.#now()) });
    }
  }

  // The leadership, and its user.

  #lead(subject: string | null): Promise<Leadership> {
    const isFirst = this.#user.use(subject);
    const leadership = this.#election.join(subject);
    if (isFirst) this.#restoreUnsent();
    if (this.#election.role === "follower") {
      this.#follower.expectAnswer(); // to the message with which the tab joined
      this.#passAll();
    }
    this.#changed();
    return leadership;
  }

  #ready(): void {
    this.#follower.ended();
    this.#follower.wantConnection(false);
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
    this.#election.drop(before);
    this.#view.clear();
    this.#errors.own(null);
    this.#requests.failAll(userChanged(this.#now()));
    this.#submissions.clear();
    this.threads.renew();
  }

  #leave(wasTaken: boolean): void {
    // Stored before the leadership ends: the next leader reads it.
    this.#connection.resign(wasTaken);
    this.#election.leave();
    this.#follower.ended();
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
    this.#election.channel?.post({ kind: "update", update });
    this.#apply(update);
  }

  #apply(update: Update): Outcome {
    const outcome = this.#view.apply(update);
    if (update.kind === "settled") {
      this.#settle(update.message.key, update.ok, update.error);
    }
    if (update.kind === "message" && outcome === "applied") this.#dispatch(update.message);
    else this.#changed();
    return outcome;
  }

  #dispatch(message: ServerMessage): void {
    const id = message.correlation_id;
    const isAnswer = this.#requests.has(id);
    if (message.type === "thread_history" && isAnswer) this.#view.addHistory(message.payload);
    this.#changed();
    if (message.type === "agent_completed") this.stops.ended(message.payload.run_id);
    if (message.type === "connection_established") this.threads.connected(message.payload.resume.verdict);
    if (message.type === "error") this.#requests.answer(id, { error: message.payload });
    else if (!("seq" in message)) this.#requests.answer(id, { error: null, message });
    // The caller of a failed request has its error; no other handler needs it.
    if (message.type === "error" && isAnswer) return;
    if (isAnswer || this.#concerns(message)) this.#owner.message(message);
  }

  /** Whether a message belongs to this tab's threads or answers one of its own. */
  #concerns(message: ServerMessage): boolean {
    const id = message.correlation_id;
    if (this.#election.role === "alone" || (id !== undefined && this.#ownIds.has(id))) return true;
    if (!("seq" in message)) return id === undefined;
    const thread = this.#view.run(message.payload.run_id)?.thread_id;
    return thread == null || this.threads.shown.has(thread);
  }

  #settle(key: string, ok: boolean, error: ErrorBody | null): void {
    if (ok) this.threads.confirmed();
    const isOwn = this.#submissions.settle({ key, ok, error });
    if (isOwn && error !== null) this.#errors.own(error);
  }

  #connectionChanged(): void {
    const { role } = this.#election;
    if (role !== "follower") this.#errors.connection(this.#connection.state.lastError);
    this.#changed();
    if (role === "leader") this.#service.stateChanged();
  }

  // The other tabs.

  #createService(): LeaderService {
    const connection = this.#connection;
    const view = this.#view;
    const submissions = this.#submissions;
    const election = this.#election;
    return new LeaderService({
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
      get isLeader() {
        return election.role === "leader";
      },
      post: (message) => election.channel?.post(message),
      accept: (message) => this.#accept(message),
      request: (id, message) => (connection.request(id, message) ? null : tooManyRequests(this.#now())),
      execute: (command) => this.#execute(command),
    });
  }

  #received(message: TabMessage): void {
    const isLeader = this.#election.role === "leader";
    if (!isFromFollower(message)) {
      // A message of a leader that this tab has just replaced is outdated.
      if (!isLeader) this.#follower.received(message);
    } else if (isLeader) {
      this.#service.received(message);
    }
  }

  #following(): Following | null {
    const { channel } = this.#election;
    if (channel === null || this.#election.role !== "follower") return null;
    return {
      id: channel.id,
      post: (message) => channel.post(message),
      followed: () => this.#election.followed(),
      steal: () => this.#election.steal(),
    };
  }

  #sync({ view, state, settled, queued }: Sync): void {
    this.#view.adopt(view);
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
    if (this.#follower.command(command)) return;
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
    const { role } = this.#election;
    const own = this.#connection.state;
    const state = role === "follower" ? (this.#follower.state ?? own) : own;
    return this.#composer.compose({
      state,
      lastError: this.#errors.latest(state.lastError),
      role,
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
