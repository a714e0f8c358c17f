/**
 * One tab: joins its view and its open messages to the connection, which is this tab's own or that
 * of the tab that leads.
 */

import { Connection } from "../connection/connection.js";
import { serverAddress } from "../connection/opening.js";
import { BoundedMap } from "../core/bounded-map.js";
import { serverName } from "../core/names.js";
import type { OutboxMessage } from "../core/outbox.js";
import { isClosed } from "../core/questions.js";
import { isEnd, type ChatMessage, type Run, type Snapshot } from "../core/snapshot.js";
import type { Update } from "../core/updates.js";
import type { ControlRequest, ErrorBody } from "../protocol/messages.js";
import type { Ports } from "../ports.js";
import { View } from "../store/view.js";
import type { Sync } from "../tabs/follower.js";
import { TabGroup } from "../tabs/group.js";
import type { Leadership } from "../tabs/leader.js";
import { Answers } from "./answers.js";
import { Calls } from "./calls.js";
import { Commands } from "./commands.js";
import { clientClosed, notConnected, userChanged } from "./errors.js";
import { LatestError } from "./latest-error.js";
import { Memberships } from "./memberships.js";
import type { TabOptions, TabOwner } from "./owner.js";
import { Requests, type RequestCallbacks } from "./requests.js";
import { asFollower, asLeader, type Roles } from "./roles.js";
import { Rooms } from "./rooms.js";
import { RunStops } from "./run-stops.js";
import { SnapshotComposer } from "./snapshot.js";
import { Submissions } from "./submissions.js";
import { ThreadLists } from "./thread-list.js";
import { ThreadEvents } from "./thread-events.js";
import { Threads } from "./threads.js";
import { Transit } from "./transit.js";
import { Unattended } from "./unattended.js";
import { Updates } from "./updates.js";
import { ClientUploads } from "./uploads.js";
import { UserTracker } from "./user.js";

const REMEMBERED = 1_000; // own ids: more than are under way at any time

export class Tab {
  readonly threads: Threads;
  readonly stops: RunStops;
  readonly answers: Answers;
  readonly calls: Calls;
  readonly rooms: Rooms;
  readonly list: ThreadLists;
  readonly transit: Transit;
  readonly commands: Commands;
  readonly uploads: ClientUploads;
  readonly #ports: Ports;
  readonly #owner: TabOwner;
  readonly #view = new View();
  readonly bytes = (id: string): ArrayBuffer | undefined => this.#view.bytes(id);
  readonly #composer = new SnapshotComposer(this.#view);
  readonly #errors = new LatestError();
  readonly #connection: Connection;
  readonly #memberships: Memberships;
  readonly #group: TabGroup;
  readonly #submissions: Submissions;
  readonly #requests: Requests;
  readonly #updates: Updates;
  readonly #unattended: Unattended;
  readonly #user: UserTracker;
  /** Ids that this tab made: answers to the ids of other tabs do not concern it. */
  readonly #ownIds = new BoundedMap<string, true>(REMEMBERED);
  #snapshot: Snapshot | null = null;

  constructor(ports: Ports, options: TabOptions, owner: TabOwner) {
    this.#ports = ports;
    this.#owner = owner;
    const address = serverAddress(ports, options.url);
    const name = serverName(address);
    this.uploads = new ClientUploads(ports, address, options.getToken, () => this.snapshot.config);
    this.threads = new Threads(ports, `${name}:thread`, options.threadId, {
      load: (id) => owner.loadThread(id),
      isWatched: (id) => this.rooms.isWatched(id),
    });
    this.#submissions = new Submissions(ports.tab, `${name}:unsent`, (message) => this.transit.deliver(message));
    this.#requests = new Requests((id) => this.#connection.forget(id));
    const asking = {
      uniqueId: () => ports.uniqueId(),
      ask: this.ask.bind(this),
      forget: (id: string) => this.#requests.forget(id),
    };
    this.stops = new RunStops(asking);
    this.answers = new Answers(ports, this.#view, asking);
    this.calls = new Calls(ports, asking);
    this.list = new ThreadLists(ports, {
      ...asking,
      isFirst: () => this.#group.role !== "follower",
      isConnected: () => this.snapshot.isConnected,
      changed: () => this.#changed(),
    });
    const events = new ThreadEvents(this.#view, this.threads, this.stops, this.answers);
    this.rooms = new Rooms(ports, events, {
      want: (rooms) => void (this.#group.want(rooms) || this.#memberships.want("", rooms)),
      message: (message) => owner.message(message),
      changed: () => this.#changed(),
    });
    this.#updates = new Updates(this.#view, this.#requests, this.stops, this.answers, this.rooms, {
      isAlone: () => this.#group.role === "alone",
      isOwnId: (id) => this.#ownIds.has(id),
      isShown: (threadId) => this.threads.shown.has(threadId),
      settled: (key, ok, error) => this.#settle(key, ok, error),
      connected: (verdict) => this.threads.connected(verdict),
      received: (message) => this.list.received(message),
      reload: (threadId) => this.threads.reload(threadId),
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
      pageIsBack: () => this.commands.run("wake"),
      changed: () => this.#connectionChanged(),
    });
    this.#memberships = new Memberships(ports, this.#connection, (update) => this.#report(update));
    this.commands = new Commands({
      connection: this.#connection,
      pass: (command) => this.#group.command(command),
      rejoin: () => this.#rejoin(false),
    });
    const roles: Roles = {
      connection: this.#connection,
      view: this.#view,
      submissions: this.#submissions,
      memberships: this.#memberships,
      requests: this.#requests,
      updates: this.#updates,
      errors: this.#errors,
      accept: (message) => this.transit.accept(message),
      execute: (command) => this.commands.execute(command),
      sync: (message) => this.#sync(message),
      now: () => this.#now(),
      changed: () => this.#changed(),
    };
    this.#group = new TabGroup(ports, address, options.isShared, {
      asLeader: asLeader(roles),
      asFollower: asFollower(roles),
      lost: () => this.#rejoin(true),
      present: () => this.rooms.announce(),
    });
    this.#unattended = new Unattended(ports.timers, {
      isWaiting: () => this.#submissions.isWaiting || !this.#requests.isEmpty,
      status: () => (this.#group.leaderState ?? this.#connection.state).status,
      settle: () => {
        this.#submissions.settleEarly();
        this.#requests.failAll(notConnected(this.#now()));
      },
    });
    this.transit = new Transit(this.#submissions, this.#requests, {
      group: this.#group,
      connection: this.#connection,
      publish: (update) => this.#publish(update),
      now: () => this.#now(),
    });
  }

  get snapshot(): Snapshot {
    this.#snapshot ??= this.#compose();
    return this.#snapshot;
  }

  connect(): void {
    this.#group.wantConnection(true);
    if (this.#group.role !== "follower") this.threads.store();
    this.commands.run("connect");
  }

  disconnect(): void {
    this.#group.wantConnection(false);
    this.#connection.stop();
    this.#leave(false);
    this.#changed();
  }

  forceReconnect(): void {
    this.#group.wantConnection(true);
    this.commands.run("forceReconnect");
  }

  clearError(): void {
    this.#errors.own(null);
    this.commands.run("clearError");
    this.#changed();
  }

  /** Ends everything: no timer and no callback of the tab is left. */
  close(): void {
    this.#connection.abort();
    this.#leave(false);
    for (const part of [this.rooms, this.list, this.calls, this.uploads]) part.close();
    this.answers.failAll(clientClosed(this.#now()));
    this.#requests.failAll(clientClosed(this.#now()));
    this.#submissions.giveUp();
    this.#unattended.check();
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
    this.#view.show(this.uploads.described(message), content, type, this.#now() / 1000);
    this.#changed();
  }

  /** Stops showing a message that failed; false if no such message is shown. */
  discard(key: string): boolean {
    const isShown = this.#view.discard(key);
    if (isShown) this.#changed();
    return isShown;
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
    const stamped = this.uploads.described({ key, message: { ...message, timestamp: this.#now() / 1000 } });
    const fault = this.transit.fault(stamped.message);
    if (fault !== null) {
      this.#errors.own(fault);
      return this.transit.refuse(stamped, fault);
    }
    const { thread_id } = message.payload;
    if (thread_id !== undefined) this.threads.show(thread_id);
    return this.#handOver(stamped);
  }

  ask(id: string, message: ControlRequest, callbacks: RequestCallbacks): void {
    this.#ownIds.set(id, true);
    this.#requests.add(id, message, callbacks);
    this.transit.pass(id, message);
    this.#unattended.check();
  }

  #handOver(message: OutboxMessage): Promise<boolean> {
    this.#ownIds.set(message.key, true);
    const done = this.#submissions.add(message);
    this.#changed();
    return done;
  }

  // The leadership, and its user.

  #lead(subject: string | null): Promise<Leadership> {
    const isFirst = this.#user.use(subject);
    const leadership = this.#group.join(subject);
    if (isFirst) this.#restoreUnsent();
    if (this.#group.role === "follower") this.transit.passAll();
    this.#changed();
    return leadership;
  }

  #ready(): void {
    this.#group.ready();
    this.transit.passAll();
    this.rooms.announce();
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
    for (const part of [this.rooms, this.list, this.calls, this.uploads]) part.reset();
  }

  #leave(wasTaken: boolean): void {
    // Stored before the leadership ends: the next leader reads it.
    this.#connection.resign(wasTaken);
    this.#memberships.clear();
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
    for (const one of this.#memberships.route(update)) this.#report(one);
    if (update.kind === "message" && update.message.type === "connection_established") this.#memberships.attach();
  }

  #report(update: Update): void {
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

  #sync({ view, state, settled, queued }: Sync): void {
    this.#view.adopt(view);
    this.answers.check();
    for (const runId of this.stops.runs()) {
      if (isEnd(this.#view.run(runId)?.status ?? "running")) this.stops.ended(runId);
    }
    for (const { key, ok, error } of settled) this.#settle(key, ok, error);
    for (const key of queued) this.#submissions.accepted(key);
    const keys = new Set(queued);
    this.transit.passAll((key) => keys.has(key));
    this.rooms.announce();
    if (state.status === "CONNECTED") this.threads.synced();
    this.list.connected();
    this.#changed();
  }

  #compose(): Snapshot {
    const state = this.#group.leaderState ?? this.#connection.state;
    return this.#composer.compose({
      state,
      lastError: this.#errors.latest(state.lastError),
      role: this.#group.role,
      threadId: this.threads.current,
      shown: this.threads.shown,
      rooms: this.rooms.states,
      threads: this.list.value,
      unaccepted: this.#submissions.unaccepted,
    });
  }

  #changed(): void {
    this.#snapshot = null;
    this.#unattended.check();
    this.#owner.changed();
  }

  #now(): number {
    return this.#ports.timers.now();
  }
}
