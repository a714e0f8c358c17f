/**
 * The client as an application uses it: one tab's view, joined to a connection that is this tab's
 * own or another tab's.
 *
 *     const client = createClient({ url: "wss://host/ws", getToken }, browserPorts());
 *     client.connect();
 *     client.subscribe("partial_result", ({ payload }) => console.log(payload.content));
 *     await client.sendMessage({ type: "user_message", payload: { content: "hello" } });
 */

import {
  RequestError,
  type ClientOptions,
  type NetraClient,
  type OutgoingMessage,
  type Subscribe,
} from "./api.js";
import { Engine, type Control, type EngineState, type Seat } from "./engine.js";
import { serverAddress } from "./opening.js";
import type { Cancel, Ports } from "./ports.js";
import { outgoingFault } from "./protocol/encode.js";
import type {
  ControlPayloads,
  ErrorBody,
  ServerMessage,
  ServerMessageOf,
} from "./protocol/messages.js";
import { Listeners } from "./listeners.js";
import { Requests, type Hooks } from "./requests.js";
import { userName } from "./rules/names.js";
import { OUTBOX_MESSAGES, readEntries, type Entry } from "./rules/outbox.js";
import { localError, TOKEN_REFUSED } from "./rules/retry.js";
import { Seats } from "./seats.js";
import { isEnd, type ChatMessage, type Run, type Snapshot } from "./snapshot.js";
import type { Settled, TabMessage, Wish } from "./tabs.js";
import { View, type Note } from "./view.js";

const FIRST_WAIT = 1_000; // ms, the guide's `reconnectInterval`
const REMEMBERED = 1_000; // settled messages and own ids: more than are under way at any time
const RELOADS = 3; // of a thread that the server could not give just now
const RELOAD_AFTER = 5_000; // ms, where the server names no time
const HOLDER_WITHIN = 10_000; // ms: a page that is busy answers by then, one that is frozen never does

export function createClient(options: ClientOptions, ports: Ports): NetraClient {
  return new Client(options, ports);
}

/** A message of this tab's from its submission to its end. */
interface Pending {
  readonly entry: Entry;
  readonly done: Promise<boolean>;
  readonly resolve: (ok: boolean) => void;
  /** The outbox has it, so a reload of this tab does not lose it. */
  isAccepted: boolean;
}

class Client implements NetraClient {
  readonly #options: ClientOptions;
  readonly #ports: Ports;
  readonly #base: string;
  readonly #engine: Engine;
  readonly #seats: Seats;
  readonly #view = new View();

  readonly #listeners: Listeners;

  readonly #pending = new Map<string, Pending>();
  readonly #requests = new Requests((id) => this.#engine.forget(id));
  readonly #settled = new Map<string, Settled>();
  /** Ids that this tab gave out: the answers to others' are none of its business. */
  readonly #own = new Map<string, true>();

  readonly #threads = new Set<string>();
  readonly #reloads = new Map<string, Cancel>();
  /** Who waits for the end of which run. */
  readonly #stops = new Map<string, Set<(ok: boolean) => void>>();
  #threadId: string;
  #hasHistory: boolean;
  #hasBegun = false;

  /** Whom the last token was for; undefined before the first. */
  #subject: string | null | undefined;
  /** The holder's state, as this tab heard of it. */
  #remote: EngineState | null = null;
  #isSynced = false;
  /** Somebody wants this tab connected, and it has not been since, nor had its turn. */
  #isAsked = false;
  /** The holder of the connection knows. */
  #hasWished = false;
  #isPosting = false;
  /** Running while the holder of the connection owes this tab an answer. */
  #patience: Cancel | null = null;
  #isClosed = false;

  /** This tab's own error, until there is a newer one of the connection's. */
  #ownError: ErrorBody | null = null;
  #lineError: ErrorBody | null = null;
  #snapshot: Snapshot | null = null;
  #shown = { version: -1, messages: [] as readonly ChatMessage[], runs: [] as readonly Run[] };

  constructor(options: ClientOptions, ports: Ports) {
    this.#options = options;
    this.#ports = ports;
    this.#listeners = new Listeners(ports.timers);
    this.subscribe = this.#listeners.add;
    const address = serverAddress(ports, options.url);
    this.#base = userName(address);
    const stored = ports.tab.get(`${this.#base}:thread`);
    this.#hasHistory = options.threadId !== undefined || stored !== null;
    this.#threadId = options.threadId ?? stored ?? ports.uniqueId();
    this.#threads.add(this.#threadId);
    const shares = options.shareAcrossTabs !== false;
    const heard = (message: TabMessage): void => this.#heard(message);
    this.#seats = new Seats(ports, address, shares, heard, () => this.#queueAgain(true));
    this.#engine = new Engine(
      ports,
      {
        url: options.url,
        getToken: options.getToken ?? null,
        maxReconnectAttempts: options.maxReconnectAttempts ?? Infinity,
        reconnectInterval: options.reconnectInterval ?? FIRST_WAIT,
      },
      {
        seat: (subject) => this.#seat(subject),
        seated: () => {
          this.#answered();
          this.#isAsked = false;
          this.#deliverAll();
        },
        position: () => this.#view.position,
        note: (note) => this.#tell(note),
        written: (id) => {
          this.#seats.tabs?.post({ kind: "written", id });
          this.#requests.written(id);
        },
        // Seen by this tab's user; the connection is perhaps that of a tab in the background.
        woken: () => {
          if (!this.#wish("wake")) this.#engine.wake();
        },
        changed: () => this.#engineChanged(),
      },
    );
  }

  connect(): void {
    if (this.#isClosed) return;
    this.#isAsked = !this.#seats.hasTurn;
    if (this.#wish("connect")) return;
    this.#keepThread();
    this.#engine.start();
  }

  disconnect(): void {
    if (this.#isClosed) return;
    this.#isAsked = false;
    this.#engine.stop();
    this.#leave();
    this.#changed();
  }

  close(): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    this.#engine.kill();
    this.#leave();
    this.#requests.answerAll({ error: this.#closedError() });
    for (const { resolve } of this.#pending.values()) resolve(false);
    this.#pending.clear();
    this.#listeners.clear();
  }

  forceReconnect(): void {
    if (this.#isClosed) return;
    this.#isAsked = !this.#seats.hasTurn;
    if (!this.#wish("forceReconnect")) this.#engine.restart();
  }

  clearError(): void {
    this.#ownError = null;
    if (!this.#wish("clearError")) this.#engine.clearError();
    this.#changed();
  }

  readonly getSnapshot = (): Snapshot => {
    this.#snapshot ??= this.#compose();
    return this.#snapshot;
  };

  readonly subscribe: Subscribe;

  sendMessage({ type, payload = {}, correlation_id }: OutgoingMessage): Promise<boolean> {
    if (this.#isClosed) return Promise.resolve(false);
    const { correlation_id: inside, ...rest } = payload;
    const isWork = type === "user_message" || type === "agent_request";
    const key = correlation_id ?? (isWork ? inside : undefined) ?? this.#ports.uniqueId();
    const message = {
      type,
      payload: isWork ? { thread_id: this.#threadId, ...rest } : payload,
      correlation_id: key,
    };
    const isOurs = type === "ack" || type === "auth";
    const fault = isOurs ? `$.type: ${type} is sent by the client itself` : outgoingFault(message);
    if (fault !== null || typeof key !== "string") {
      return Promise.resolve(this.#refuse(key, fault ?? "$.correlation_id: expected a string"));
    }
    if (isWork) return this.#submit({ key, message: message as unknown as Entry["message"] });
    return new Promise((resolve) => {
      this.#ask(key, message as Control, {
        written: () => resolve(true),
        answered: ({ error }) => resolve(error === null),
      });
    });
  }

  sendOptimisticMessage(content: string, type = "user_message"): string {
    const key = this.#ports.uniqueId();
    const payload = { thread_id: this.#threadId, content };
    const entry: Entry = { key, message: { type: "user_message", payload, correlation_id: key } };
    remember(this.#own, key, true);
    this.#view.show(entry, content, type, this.#ports.timers.now());
    this.#changed();
    return key;
  }

  resend(correlationId: string): string | null {
    const old = this.#view.messages(this.#threads).find((message) => message.id === correlationId);
    if (old?.role !== "user") return null;
    const { type, payload, content } = old;
    if (type !== "user_message" && type !== "agent_request") return null;
    const key = this.#ports.uniqueId();
    const message = { type, payload, correlation_id: key };
    if (outgoingFault(message) !== null) return null;
    const entry = { key, message: message as unknown as Entry["message"] };
    this.#view.show(entry, content, type, this.#ports.timers.now());
    void this.sendMessage(message);
    return key;
  }

  stopRun(runId: string): Promise<boolean> {
    const run = this.#view.run(runId);
    if (run !== undefined && isEnd(run.status)) return Promise.resolve(true);
    if (this.#isClosed) return Promise.resolve(false);
    return new Promise((resolve) => {
      const id = this.#ports.uniqueId();
      const waiting = this.#stops.get(runId) ?? new Set();
      this.#stops.set(runId, waiting);
      const done = (ok: boolean): void => {
        waiting.delete(done);
        if (waiting.size === 0) this.#stops.delete(runId);
        this.#requests.forget(id);
        resolve(ok);
      };
      waiting.add(done);
      const message = { type: "stop_agent", payload: { run_id: runId }, correlation_id: id } as const;
      this.#ask(id, message, {
        written: () => undefined,
        // It has ended, or never was: either way there is nothing to stop.
        answered: ({ error }) => done(error?.code === "RUN_NOT_FOUND"),
      });
    });
  }

  loadThread(
    threadId: string,
    page: { readonly limit?: number; readonly before?: string } = {},
  ): Promise<ControlPayloads["thread_history"]> {
    const id = this.#ports.uniqueId();
    const payload = { thread_id: threadId, ...page };
    const message = { type: "get_thread_history", payload, correlation_id: id } as const;
    const fault = outgoingFault(message);
    if (fault !== null) {
      const body = this.#error("VALIDATION_ERROR", fault, "Fix the field at the path.");
      return Promise.reject(new RequestError(body));
    }
    if (this.#isClosed) return Promise.reject(new RequestError(this.#closedError()));
    this.#threads.add(threadId);
    return new Promise((resolve, reject) => {
      this.#ask(id, message, {
        written: () => undefined,
        answered: (answer) => {
          if (answer.error !== null) reject(new RequestError(answer.error));
          else if (answer.message.type === "thread_history") resolve(answer.message.payload);
        },
      });
    });
  }

  openThread(threadId: string): void {
    this.#threadId = threadId;
    this.#hasHistory = true;
    this.#showThread(threadId);
    this.#reload(threadId);
    this.#changed();
  }

  // Messages: from this tab to whoever has the outbox.

  #submit(entry: Entry): Promise<boolean> {
    const { key } = entry;
    const pending = this.#pending.get(key);
    if (pending !== undefined) return pending.done; // one key is one message, however often it is sent
    if (this.#settled.get(key)?.ok === true) return Promise.resolve(true);
    if (this.#pending.size >= OUTBOX_MESSAGES) {
      this.#tell({ kind: "settled", entry, ok: false, error: this.#outboxFull() });
      return Promise.resolve(false);
    }
    const { thread_id } = entry.message.payload;
    if (thread_id !== undefined) this.#threads.add(thread_id);
    const timestamp = this.#ports.timers.now() / 1000;
    return this.#handIn({ key, message: { ...entry.message, timestamp } });
  }

  #handIn(entry: Entry): Promise<boolean> {
    let resolve: (ok: boolean) => void = () => undefined;
    const done = new Promise<boolean>((settle) => {
      resolve = settle;
    });
    remember(this.#own, entry.key, true);
    this.#pending.set(entry.key, { entry, done, resolve, isAccepted: false });
    this.#saveUnsent();
    this.#deliver(entry);
    this.#changed();
    return done;
  }

  #deliver(entry: Entry): void {
    if (this.#seats.role === "follower") this.#askHolder({ kind: "submit", entry });
    else if (this.#seats.hasTurn) this.#accept(entry);
  }

  /** This tab has its turn, or there is a new holder: everything open goes there. */
  #deliverAll(): void {
    for (const { entry } of [...this.#pending.values()]) this.#deliver(entry);
    for (const [id, message] of this.#requests.open()) this.#pass(id, message);
  }

  /** Puts a message of this tab or another into the outbox. */
  #accept(entry: Entry): void {
    if (this.#engine.submit(entry)) {
      this.#seats.tabs?.post({ kind: "accepted", key: entry.key });
      this.#accepted(entry.key);
      return;
    }
    this.#tell({ kind: "settled", entry, ok: false, error: this.#outboxFull() });
  }

  #outboxFull(): ErrorBody {
    const help = "Wait until the connection is back.";
    return this.#error("OUTBOX_FULL", "Too many messages wait to be sent.", help);
  }

  #accepted(key: string): void {
    const pending = this.#pending.get(key);
    if (pending === undefined || pending.isAccepted) return;
    pending.isAccepted = true;
    this.#saveUnsent();
  }

  #refuse(key: unknown, fault: string): false {
    const body = this.#error("VALIDATION_ERROR", fault, "Fix the field at the path.");
    if (typeof key === "string") this.#view.fail(key, body);
    this.#ownError = body;
    this.#changed();
    return false;
  }

  /** Kept by the tab itself until an outbox has it, which is kept elsewhere. */
  #saveUnsent(): void {
    const unsent = [...this.#pending.values()].filter((pending) => !pending.isAccepted);
    const { tab } = this.#ports;
    const name = `${this.#base}:unsent`;
    if (unsent.length === 0) tab.remove(name);
    else quietly(() => tab.set(name, JSON.stringify(unsent.map(({ entry }) => entry))));
  }

  #restoreUnsent(): void {
    for (const entry of readEntries(this.#ports.tab.get(`${this.#base}:unsent`))) {
      if (this.#pending.has(entry.key)) continue;
      this.#view.apply({ kind: "restored", entry });
      void this.#handIn(entry);
    }
  }

  // Requests: what has an answer and no outbox.

  #ask(id: string, message: Control, hooks: Hooks): void {
    remember(this.#own, id, true);
    this.#requests.add(id, message, hooks);
    this.#pass(id, message);
  }

  #pass(id: string, message: Control): void {
    if (this.#seats.role === "follower") {
      this.#seats.tabs?.post({ kind: "control", id, message });
    } else if (!this.#engine.control(id, message)) {
      this.#requests.answer(id, { error: this.#tooMany() });
    }
  }

  #tooMany(): ErrorBody {
    return this.#error("TOO_MANY_REQUESTS", "Too many requests wait for an answer.", "Wait for them.");
  }

  #ended(runId: string): void {
    for (const done of [...(this.#stops.get(runId) ?? [])]) done(true);
  }

  // The seat, and whose it is.

  #seat(subject: string | null): Promise<Seat> {
    if (this.#subject !== undefined && this.#subject !== subject) this.#userChanged(this.#subject);
    if (this.#subject === undefined) this.#forgetOthers(subject);
    const isFirst = this.#subject === undefined;
    this.#subject = subject;
    for (const storage of [this.#ports.shared, this.#ports.tab]) {
      quietly(() => storage.set(`${this.#base}:user`, subject ?? "?"));
    }
    const seat = this.#seats.take(subject);
    if (isFirst) this.#restoreUnsent();
    if (this.#seats.role === "follower") {
      this.#owesAnswer(); // to the `hello` of a tab that joins
      this.#deliverAll();
    }
    this.#changed();
    return seat;
  }

  /** Drops what another user left here before this page was loaded. */
  #forgetOthers(subject: string | null): void {
    const { shared, tab } = this.#ports;
    for (const storage of [shared, tab]) {
      const before = storage.get(`${this.#base}:user`);
      if (before === null || before === (subject ?? "?")) continue;
      this.#seats.drop(before);
      if (storage !== tab) continue;
      tab.remove(`${this.#base}:unsent`);
      this.#newThread();
    }
  }

  /** Nothing of one user's is shown to another, or sent as another. */
  #userChanged(before: string | null): void {
    this.#leave();
    this.#seats.drop(before);
    this.#view.clear();
    this.#settled.clear();
    this.#ownError = null;
    const error = this.#error("USER_CHANGED", "Another user is here now.", "Ask again as this user.");
    this.#requests.answerAll({ error });
    for (const { resolve } of this.#pending.values()) resolve(false);
    this.#pending.clear();
    this.#saveUnsent();
    this.#newThread();
  }

  #leave(wasTaken = false): void {
    // Stored first: whoever is next reads it.
    this.#engine.leaveSeat(wasTaken);
    this.#seats.leave();
    this.#answered();
    for (const cancel of this.#reloads.values()) cancel();
    this.#reloads.clear();
    this.#remote = null;
    this.#isSynced = false;
  }

  #newThread(): void {
    if (this.#options.threadId === undefined) {
      this.#threadId = this.#ports.uniqueId();
      this.#hasHistory = false;
    }
    this.#showThread(this.#threadId);
  }

  #showThread(threadId: string): void {
    this.#threads.clear();
    this.#threads.add(threadId);
    this.#shown.version = -1;
    this.#keepThread();
  }

  #keepThread(): void {
    quietly(() => this.#ports.tab.set(`${this.#base}:thread`, this.#threadId));
  }

  // What happens on the connection, here or in the tab that has it.

  /** A note of this tab's own connection: for this tab, and for all others. */
  #tell(note: Note): void {
    this.#seats.tabs?.post({ kind: "note", note });
    this.#react(note);
  }

  #react(note: Note): "applied" | "known" | "missed" {
    const outcome = this.#view.apply(note);
    if (note.kind === "settled") this.#settle({ key: note.entry.key, ok: note.ok, error: note.error });
    if (note.kind !== "message" || outcome !== "applied") {
      this.#changed();
      return outcome;
    }
    const { message } = note;
    const isAnswer = this.#requests.has(message.correlation_id);
    if (message.type === "thread_history" && isAnswer) this.#view.history(message.payload);
    this.#changed();
    if (message.type === "agent_completed") this.#ended(message.payload.run_id);
    if (message.type === "connection_established") this.#connected(message);
    if (message.type === "error") this.#requests.answer(message.correlation_id, { error: message.payload });
    else if (!("seq" in message)) this.#requests.answer(message.correlation_id, { error: null, message });
    // A request that failed has told so whoever asked.
    if (message.type === "error" && isAnswer) return outcome;
    if (this.#isMine(message, isAnswer)) this.#listeners.tell(message);
    return outcome;
  }

  #settle(settled: Settled): void {
    const { key, ok, error } = settled;
    remember(this.#settled, key, settled);
    if (ok) this.#hasHistory = true;
    const pending = this.#pending.get(key);
    if (pending === undefined) return;
    this.#pending.delete(key);
    this.#saveUnsent();
    if (error !== null) this.#ownError = error;
    pending.resolve(ok);
  }

  /** Whether a message concerns this tab: its threads, its messages, its requests. */
  #isMine(message: ServerMessage, isAnswer: boolean): boolean {
    const id = message.correlation_id;
    if (isAnswer || this.#seats.role === "alone" || (id !== undefined && this.#own.has(id))) return true;
    if (!("seq" in message)) return id === undefined;
    const thread = this.#view.run(message.payload.run_id)?.thread_id;
    return thread == null || this.#threads.has(thread);
  }

  #connected(message: ServerMessageOf<"connection_established">): void {
    const isFirst = !this.#hasBegun;
    this.#hasBegun = true;
    if (!this.#hasHistory || (!isFirst && message.payload.resume.verdict === "exact")) return;
    for (const thread of this.#threads) this.#reload(thread);
  }

  /** Shows a thread as the server has it; a thread that it does not have is an empty one. */
  #reload(thread: string, left = RELOADS): void {
    this.#reloads.get(thread)?.();
    this.#reloads.delete(thread);
    this.loadThread(thread).catch((error: unknown) => {
      if (!(error instanceof RequestError)) throw error;
      const { code, retry_after_ms = RELOAD_AFTER } = error.body;
      if (left === 0 || (code !== "RATE_LIMIT_EXCEEDED" && code !== "SERVICE_UNAVAILABLE")) return;
      const again = (): void => this.#reload(thread, left - 1);
      this.#reloads.set(thread, this.#ports.timers.setTimeout(again, retry_after_ms));
    });
  }

  // The other tabs.

  #heard(message: TabMessage): void {
    if (this.#seats.role === "holder") {
      this.#heardAsHolder(message);
      return;
    }
    this.#heardAsFollower(message);
    if (!OF_HOLDERS.has(message.kind)) return;
    this.#answered();
    // It lives; what was handed in is not accepted by that.
    const isOwed = [...this.#pending.values()].some((pending) => !pending.isAccepted);
    if (isOwed && this.#seats.role === "follower") this.#owesAnswer(true);
  }

  #heardAsHolder(message: TabMessage): void {
    switch (message.kind) {
      case "hello":
        this.#seats.tabs?.post({
          kind: "sync",
          to: message.from,
          view: this.#view.state(),
          state: this.#engine.state,
          waiting: this.#engine.outbox.map(({ key }) => key),
          settled: [...this.#settled.values()],
        });
        break;
      case "submit": {
        const settled = this.#settled.get(message.entry.key);
        if (settled?.ok !== true) this.#accept(message.entry);
        else this.#seats.tabs?.post({ kind: "note", note: { kind: "settled", entry: message.entry, ok: true, error: null } });
        break;
      }
      case "control":
        if (!this.#engine.control(message.id, message.message)) this.#decline(message.id);
        break;
      case "please":
        this.#grant(message.wish);
        if (this.#seats.role === "holder") {
          this.#seats.tabs?.post({ kind: "state", state: this.#engine.state });
        }
        break;
      default:
        break; // of another holder, which this tab has followed
    }
  }

  #heardAsFollower(message: TabMessage): void {
    const { tabs } = this.#seats;
    if (tabs === null) return;
    switch (message.kind) {
      case "holder":
        this.#hasWished = false;
        this.#isSynced = false;
        tabs.post({ kind: "hello", from: tabs.id });
        break;
      case "sync":
        if (message.to === tabs.id) this.#sync(message);
        break;
      case "state":
        tabs.hasFollowed = true;
        this.#hearState(message.state);
        this.#changed();
        break;
      case "note":
        if (this.#isSynced && this.#react(message.note) === "missed") {
          this.#isSynced = false;
          tabs.post({ kind: "hello", from: tabs.id });
        }
        break;
      case "accepted":
        this.#accepted(message.key);
        break;
      case "written":
        this.#requests.written(message.id);
        break;
      default:
        break; // between another tab and the holder
    }
  }

  #sync(told: Extract<TabMessage, { kind: "sync" }>): void {
    const { tabs } = this.#seats;
    if (tabs !== null) tabs.hasFollowed = true;
    const isFirst = !this.#hasBegun && told.state.status === "CONNECTED";
    this.#isSynced = true;
    this.#hearState(told.state);
    this.#view.adopt(told.view);
    for (const runId of [...this.#stops.keys()]) {
      if (isEnd(this.#view.run(runId)?.status ?? "running")) this.#ended(runId);
    }
    for (const settled of told.settled) this.#settle(settled);
    for (const key of told.waiting) this.#accepted(key);
    const waiting = new Set(told.waiting);
    for (const { entry } of [...this.#pending.values()]) if (!waiting.has(entry.key)) this.#deliver(entry);
    for (const [id, message] of this.#requests.open()) this.#pass(id, message);
    if (isFirst) {
      this.#hasBegun = true;
      if (this.#hasHistory) this.#reload(this.#threadId);
    }
    this.#changed();
  }

  /** Passes a wish on to the tab that has the connection; false where that is this one. */
  #wish(wish: Wish): boolean {
    if (this.#seats.role !== "follower") return false;
    this.#askHolder({ kind: "please", wish });
    return true;
  }

  #askHolder(message: TabMessage): void {
    this.#seats.tabs?.post(message);
    this.#owesAnswer();
  }

  /** The holder answers at once, whatever it answers; one that does not has been put to sleep. */
  #owesAnswer(isAlive = false): void {
    if (this.#patience !== null) return;
    const { timers } = this.#ports;
    const asked = timers.now();
    this.#patience = timers.setTimeout(() => {
      this.#patience = null;
      const { tabs } = this.#seats;
      if (tabs === null) return;
      // A tab that was asleep itself has an answer waiting, perhaps: it asks once more.
      const wasAsleep = timers.now() - asked > 2 * HOLDER_WITHIN;
      if (isAlive || wasAsleep) this.#askHolder({ kind: "hello", from: tabs.id });
      else tabs.steal();
    }, HOLDER_WITHIN);
  }

  #answered(): void {
    this.#patience?.();
    this.#patience = null;
  }

  #hearState(state: EngineState): void {
    this.#remote = state;
    this.#noticeError(state.lastError);
    if (state.status === "CONNECTED") this.#isAsked = false;
    // The holder's token was refused. This tab's own may be newer: it asks each holder that fails,
    // once, for its turn.
    if (!this.#isAsked || !isRefused(state) || this.#hasWished) return;
    this.#hasWished = true;
    this.#wish("connect");
  }

  /** The requests of other tabs are bounded like this one's. */
  #decline(id: string): void {
    const timestamp = this.#ports.timers.now() / 1000;
    const message = { type: "error", payload: this.#tooMany(), timestamp, correlation_id: id } as const;
    this.#seats.tabs?.post({ kind: "note", note: { kind: "message", message } });
  }

  /** Another tab has the turn, or is to have it; this one is the last in line. */
  #queueAgain(wasTaken: boolean): void {
    this.#leave(wasTaken);
    this.#engine.queueAgain();
  }

  #grant(wish: Wish): void {
    const isConnect = wish === "connect" || wish === "forceReconnect";
    // This tab's token was refused; the one that asks may have a better one.
    if (isConnect && isRefused(this.#engine.state)) this.#queueAgain(false);
    else if (wish === "connect") this.#engine.start();
    else if (wish === "forceReconnect") this.#engine.restart();
    else if (wish === "wake") this.#engine.wake();
    else this.#engine.clearError();
  }

  // Telling the application.

  /** Clocks differ, so what came last is newer, whatever its timestamp says. */
  #noticeError(error: ErrorBody | null): void {
    const before = this.#lineError;
    this.#lineError = error;
    if (error === null) return;
    if (error.code !== before?.code || error.timestamp !== before.timestamp) this.#ownError = null;
  }

  #engineChanged(): void {
    if (this.#seats.role !== "follower") this.#noticeError(this.#engine.state.lastError);
    this.#changed();
    const { tabs } = this.#seats;
    if (tabs === null || this.#seats.role !== "holder" || this.#isPosting) return;
    // Once for all that changes in one go.
    this.#isPosting = true;
    void Promise.resolve().then(() => {
      this.#isPosting = false;
      if (this.#seats.tabs === tabs) tabs.post({ kind: "state", state: this.#engine.state });
    });
  }

  #changed(): void {
    this.#snapshot = null;
    this.#listeners.changed();
  }

  #compose(): Snapshot {
    const role = this.#seats.role;
    const own = this.#engine.state;
    const state = role === "follower" ? (this.#remote ?? own) : own;
    if (this.#shown.version !== this.#view.version) {
      this.#shown = {
        version: this.#view.version,
        messages: this.#view.messages(this.#threads),
        runs: this.#view.runs(this.#threads),
      };
    }
    // What waits only here is queued as well as what waits in the outbox.
    let queued = state.stats.queued;
    for (const pending of this.#pending.values()) if (!pending.isAccepted) queued += 1;
    return {
      status: state.status,
      isConnected: state.status === "CONNECTED",
      isReconnecting: state.status === "RECONNECTING",
      config: state.config,
      connectionStats: queued === state.stats.queued ? state.stats : { ...state.stats, queued },
      lastError: this.#ownError ?? state.lastError,
      messages: this.#shown.messages,
      runs: this.#shown.runs,
      queued,
      retry: state.retry,
      session: state.session,
      role,
      threadId: this.#threadId,
    };
  }

  #closedError(): ErrorBody {
    return this.#error("CLOSED", "The client was closed.", "Open a new one.");
  }

  #error(code: string, error: string, help: string): ErrorBody {
    return localError(this.#ports.timers.now(), code, error, help);
  }
}

/** What only the tab says that has the connection. */
const OF_HOLDERS: ReadonlySet<TabMessage["kind"]> = new Set([
  "holder",
  "sync",
  "state",
  "note",
  "accepted",
  "written",
]);

const isRefused = ({ status, lastError }: EngineState): boolean =>
  status === "ERROR" && lastError !== null && TOKEN_REFUSED.has(lastError.code);

/** Keeps what was added last, within bounds. */
function remember<V>(map: Map<string, V>, key: string, value: V): void {
  map.delete(key);
  map.set(key, value);
  if (map.size <= REMEMBERED) return;
  const oldest = map.keys().next();
  if (oldest.done !== true) map.delete(oldest.value);
}

/** A storage without room loses what a reload would need, and nothing else. */
function quietly(write: () => void): void {
  try {
    write();
  } catch {
    // There is nothing to do: the page itself has it as long as it is open.
  }
}
