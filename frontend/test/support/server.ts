/**
 * A server of `netra.v1` and `netra.v2` in memory: discovery, tickets, sessions with numbered events and a log, keys
 * and the four verdicts. The test itself emits the events of the agents.
 */

import type {
  AskedQuestion,
  ClientMessage,
  ClientPayloads,
  HistoryMessage,
  HistoryQuestion,
  EventPayloads,
  HttpAnswer,
  HttpRequest,
  JsonValue,
  ListedAgent,
  ListedFile,
  ResumedQuestion,
  ResumedRun,
  RunStatus,
  ServerMessage,
  SocketClass,
} from "../../src/index.js";
import type { Clock } from "./clock.js";
import { readFrame } from "./compact.js";
import { FEATURES, LIMITS } from "./defaults.js";
import { FakeEvents } from "./events.js";
import { FakeFiles, listed } from "./files.js";
import { FakeRooms } from "./rooms.js";
import { FakeSocket } from "./socket.js";
import { expiryOf, userOf } from "./tokens.js";

export { FEATURES } from "./defaults.js";
export { tokenFor } from "./tokens.js";

interface Session {
  readonly id: string;
  readonly user: string;
  readonly events: (ServerMessage & { seq: number; seq_from?: number; data?: ArrayBuffer })[];
  seq: number;
  acknowledged: number;
  written: number;
  socket: FakeSocket | null;
}

export interface Run {
  readonly id: string;
  readonly session: Session;
  readonly thread: string;
  readonly key: string;
  text: string;
  status: RunStatus;
  end: EventPayloads["agent_completed"] | null;
  /** All questions of the run, open and closed. */
  questions: HistoryQuestion[];
  /** Those that the agent has sent. */
  files?: ListedFile[];
}

export class FakeServer {
  readonly clock: Clock;
  readonly sockets: FakeSocket[] = [];
  readonly sessions = new Map<string, Session>();
  readonly runs = new Map<string, Run>();
  readonly threads = new Map<string, HistoryMessage[]>();
  readonly rooms = new FakeRooms(this);
  readonly events = new FakeEvents(this);
  readonly files: FakeFiles;
  doors: Readonly<Record<string, Readonly<Record<string, string>>>> | undefined;
  /** True: questions and answers are recorded in `threads`. */
  keepsHistory = false;
  readonly requests: HttpRequest[] = [];
  /** The frames of all sockets, in order. */
  readonly received: ClientMessage[] = [];
  /** When each of them arrived. */
  readonly times: number[] = [];
  limits = LIMITS;
  features = FEATURES;
  /** Added to those of every server. */
  endpoints: Readonly<Record<string, string>> = {};
  agents: ListedAgent[] = [{ name: "echo", title: "Echo", examples: ["First", "Second"] }];
  /** HTTP answers that replace the server's own, each once; `null` is no answer. */
  answers: (Partial<HttpAnswer> | null)[] = [];
  /** False: requests and upgrades fail. */
  isUp = true;
  /** True: messages are received and not answered. */
  isMute = false;
  /** Which subprotocol the server selects for its first, second, … socket. */
  selects = (_socket: number): string => "netra.v2";
  /** The bytes of the binary frames, in order. */
  readonly bytes: Uint8Array[] = [];
  /** True: neighbouring text of a run is one event when it is sent again. */
  mergesReplays = false;
  /** True: a resume sends only the end of each text, and questions without their texts. */
  isShort = false;
  /** An error that answers every message, every answer and every request for a history. */
  rejection: { readonly code: string; readonly retry_after_ms?: number } | null = null;
  /** False: a session that answers a question of another session is not sent the outcome. */
  sendsCopies = true;
  /** Milliseconds from an upgrade request to its answer. */
  upgradeTime = 5;
  /** So many more upgrade requests fail. */
  refusals = 0;
  /** False: a socket whose session is taken over is closed only after the first frame of the new one. */
  closesFirst = true;
  /** Milliseconds that this server's clock is ahead. */
  serverAhead = 0;
  /** True: tokens expire, with a warning a minute before, as on a real server. */
  checksTokens = false;
  /** Answers a message itself, and returns true, or leaves it to the server. */
  intercept: (socket: FakeSocket, message: ClientMessage) => boolean = () => false;
  #tickets = new Map<string, string>();
  #count = 0;

  constructor(clock: Clock) {
    this.clock = clock;
    this.files = new FakeFiles(clock);
  }

  get open(): FakeSocket[] {
    return this.sockets.filter((socket) => socket.state === "open");
  }

  get socket(): FakeSocket {
    const socket = this.open.at(-1);
    if (socket === undefined) throw new Error("no socket is open");
    return socket;
  }

  readonly http = (request: HttpRequest): Promise<HttpAnswer> => {
    this.requests.push(request);
    if (!this.isUp) return Promise.reject(new Error("no answer"));
    const answer = this.answers.shift();
    if (answer === null) return Promise.reject(new Error("no answer"));
    if (answer !== undefined) {
      return Promise.resolve({ status: 200, body: "", retryAfter: null, ...answer });
    }
    return Promise.resolve(this.#answer(request));
  };

  #answer(request: HttpRequest): HttpAnswer {
    if (request.url.endsWith("/ws/config")) return { status: 200, body: this.#config(), retryAfter: null };
    const token = request.headers["Authorization"]?.replace("Bearer ", "") ?? "";
    this.#count += 1;
    const ticket = `ticket-${this.#count}`;
    this.#tickets.set(ticket, token);
    return { status: 200, body: JSON.stringify({ ticket, expires_in: 30 }), retryAfter: null };
  }

  #config(): string {
    return JSON.stringify({
      websocket_config: {
        version: "1.0",
        features: this.features,
        endpoints: {
          websocket: "/ws",
          service_discovery: "/ws/config",
          ticket: "/ws/ticket",
          health: "/ws/health",
          ...this.endpoints,
        },
        connection_limits: this.limits,
        auth: { methods: ["header", "subprotocol", "ticket"] },
        server_time: this.clock.now / 1000,
        doors: this.doors,
      },
    });
  }

  get WebSocket(): SocketClass {
    const accept = (socket: FakeSocket): void => this.#accept(socket);
    return class extends FakeSocket {
      constructor(url: string, protocols: string[] = []) {
        super(url, protocols);
        accept(this);
      }
    };
  }

  #accept(socket: FakeSocket): void {
    this.clock.timers.setTimeout(() => {
      const isRefused = this.refusals > 0;
      if (isRefused) this.refusals -= 1;
      if (isRefused || !this.connect(socket)) socket.drop(1006);
    }, this.upgradeTime);
    this.sockets.push(socket);
  }

  /** Opens a socket with a ticket or a token; false if that is refused. */
  connect(socket: FakeSocket, bearer?: string): boolean {
    if (socket.state !== "connecting") return true;
    const ticket = socket.query.get("ticket") ?? "";
    const token = bearer ?? this.#tickets.get(ticket);
    const user = token === undefined ? (this.features.auth_required ? undefined : "anonymous") : userOf(token);
    this.#tickets.delete(ticket);
    if (!this.isUp || user === undefined) return false;
    socket.state = "open";
    // The `events` door has no subprotocols.
    socket.protocol = socket.protocols.length === 0 ? "netra.v1" : this.selects(this.sockets.indexOf(socket));
    socket.onData = (data) => this.#take(socket, data);
    socket.onopen?.({});
    this.#establish(socket, user, socket.query);
    if (token !== undefined && this.checksTokens) this.#useToken(socket, token);
    return true;
  }

  /** Warns a minute before the token of a socket expires, or at once, and then closes the socket. */
  #useToken(socket: FakeSocket, token: string): void {
    const expires_at = expiryOf(token);
    socket.cancelExpiry();
    const left = expires_at * 1000 - this.clock.now;
    const warn = (): void => this.control(socket, "auth_expiring", { expires_at });
    if (left <= WARNING) warn();
    const cancels = [
      left > WARNING ? this.clock.timers.setTimeout(warn, left - WARNING) : () => undefined,
      this.clock.timers.setTimeout(() => socket.drop(4401), left),
    ];
    socket.cancelExpiry = () => {
      for (const cancel of cancels) cancel();
    };
  }

  #establish(socket: FakeSocket, user: string, query: URLSearchParams): void {
    const requested = query.get("session_id");
    const after = Number(query.get("last_seq") ?? "0");
    const found = requested === null ? undefined : this.sessions.get(requested);
    const isOwn = found?.user === user;
    let session = isOwn && after <= found.written ? found : undefined;
    const reason = isOwn && after > found.written ? ("ahead" as const) : ("unknown" as const);
    let verdict: "new" | "exact" | "gap" | "reset" = requested === null ? "new" : "reset";
    let last = 0;
    if (session === undefined) {
      this.#count += 1;
      session = { id: `sess-${this.#count}`, user, events: [], seq: 0, acknowledged: 0, written: 0, socket: null };
      this.sessions.set(session.id, session);
    } else {
      const [first] = session.events;
      const oldest = first?.seq_from ?? first?.seq ?? session.seq + 1;
      verdict = after >= oldest - 1 ? "exact" : "gap";
      last = verdict === "exact" ? after : oldest - 1;
      if (this.closesFirst) session.socket?.drop(4409);
      this.#acknowledge(session, last);
    }
    const replaced = session.socket;
    session.socket = socket;
    socket.session = session.id;
    this.#count += 1;
    const replay = session.events.filter((event) => event.seq > last);
    session.written = session.seq;
    socket.deliver({
      type: "connection_established",
      payload: {
        connection_id: `conn-${this.#count}`,
        session_id: session.id,
        user_id: user,
        server_time: (this.clock.now + this.serverAhead) / 1000,
        heartbeat_interval: this.limits.heartbeat_interval,
        features: this.features,
        limits: this.limits,
        resume: {
          verdict,
          ...(verdict === "reset" ? { reason } : {}),
          replayed: replay.length,
          last_seq: last,
          runs: verdict === "exact" || verdict === "gap" ? this.#resumed(session, last) : [],
        },
        user_room: `user:${user}`,
        agents: this.agents,
      },
      timestamp: this.clock.now / 1000,
    });
    for (const event of this.mergesReplays ? merged(replay) : replay) socket.deliver(event);
    replaced?.drop(4409);
  }

  /** Tells the client of a socket that its server is about to close it. */
  drain(socket: FakeSocket, reconnect_after_ms = 0): void {
    this.control(socket, "server_draining", { reason: "restart", reconnect_after_ms });
  }

  #resumed(session: Session, last: number): ResumedRun[] {
    const resumed: ResumedRun[] = [];
    for (const run of this.runs.values()) {
      if (run.session !== session) continue;
      const ends = session.events.find((e) => e.type === "agent_completed" && e.payload.run_id === run.id);
      if (run.end !== null && (ends === undefined || ends.seq <= last)) continue;
      const later = session.events.filter(
        (e) => e.type === "partial_result" && e.payload.run_id === run.id && e.seq > last,
      );
      const tail = later.map((e) => (e.payload as { content: string }).content).join("");
      const content = run.text.slice(0, run.text.length - tail.length);
      resumed.push({
        run_id: run.id,
        thread_id: run.thread,
        correlation_id: run.key,
        status: run.status,
        content: this.isShort ? content.slice(-4) : content,
        ...(this.isShort ? { truncated: true } : {}),
        ...(run.questions.some(isOpen) ? { questions: run.questions.filter(isOpen).map((one) => this.#resumedQuestion(one)) } : {}),
      });
    }
    return resumed;
  }

  #resumedQuestion(question: HistoryQuestion): ResumedQuestion {
    const { question_id, kind, expires_at } = question;
    return this.isShort ? { question_id, kind, expires_at, truncated: true } : question;
  }

  #take(socket: FakeSocket, data: string | ArrayBuffer): void {
    const { message, bytes } = readFrame(data);
    if (bytes !== null) this.bytes.push(bytes);
    this.received.push(message);
    this.times.push(this.clock.now);
    if (this.isMute || this.intercept(socket, message)) return;
    const session = this.sessions.get(socket.session);
    if (session === undefined) return;
    const id = message.correlation_id;
    if (message.type === "ack") {
      if (message.payload.seq > session.written) throw new Error("acknowledged what was never sent");
      this.#acknowledge(session, message.payload.seq);
    } else if (message.type === "ping") {
      this.control(socket, "pong", message.payload, id);
    } else if (message.type === "auth") {
      const expires_at = this.checksTokens ? expiryOf(message.payload.token) : this.clock.now / 1000 + 600;
      this.control(socket, "auth_ok", { expires_at }, id);
      if (this.checksTokens) this.#useToken(socket, message.payload.token);
    } else if (this.rejection !== null && id !== undefined && isRejectable(message)) {
      const { code, ...more } = this.rejection;
      this.error(socket, code, id, more);
    } else if (message.type === "get_thread_history") {
      const messages = this.threads.get(message.payload.thread_id);
      const { thread_id } = message.payload;
      if (messages === undefined) this.error(socket, "THREAD_NOT_FOUND", id);
      else this.control(socket, "thread_history", { thread_id, messages, has_more: false }, id);
    } else if (message.type === "answer") {
      this.#takeAnswer(socket, session, message.payload, id);
    } else if (message.type === "stop_agent") {
      const run = this.runs.get(message.payload.run_id);
      if (run === undefined || run.end !== null) this.error(socket, "RUN_NOT_FOUND", id);
      else this.end(run.id, "cancelled");
    } else if (message.type === "user_message" || message.type === "agent_request") {
      this.#work(session, message);
    } else {
      this.rooms.take(socket, message);
    }
  }

  #work(session: Session, message: Extract<ClientMessage, { type: "user_message" | "agent_request" }>): void {
    const key = message.correlation_id ?? "";
    const known = [...this.runs.values()].find((run) => run.key === key);
    const thread = message.payload.thread_id ?? "main";
    if (known !== undefined) {
      this.emit(session, "message_confirmed", key, {
        message_id: `msg-${known.id}`,
        run_id: known.id,
        thread_id: known.thread,
        status: "duplicate",
        run_status: known.status,
      });
      if (known.end !== null) this.emit(session, "agent_completed", key, known.end);
      return;
    }
    this.#count += 1;
    const run: Run = { id: `run-${this.#count}`, session, thread, key, text: "", status: "running", end: null, questions: [] };
    this.runs.set(run.id, run);
    this.emit(session, "message_confirmed", key, {
      message_id: `msg-${run.id}`,
      run_id: run.id,
      thread_id: thread,
      status: "accepted",
    });
    const content = message.type === "user_message" ? message.payload.content : "";
    const replaces = message.type === "user_message" ? message.payload.replaces : undefined;
    // Bytes of a message become a file.
    const attachments = message.payload.attachments?.map((file: unknown) => (typeof file === "string" ? file : "file-of-message"));
    this.#record(run, "user", content, attachments, replaces);
    const asked = { message_id: `msg-${run.id}`, run_id: run.id, user_id: session.user, content, ...(attachments && { attachments }) };
    this.rooms.mirror(thread, "user_message", replaces === undefined ? asked : { ...asked, replaces }, session.id);
    this.emit(session, "agent_started", key, { run_id: run.id, agent_name: "echo", thread_id: thread, attempt: 1 });
  }

  /** Adds a message to the history: an answer behind its question. */
  #record(run: Run, role: "user" | "agent", content: string, attachments?: readonly string[], replaces?: string): void {
    if (!this.keepsHistory) return;
    const known = this.threads.get(run.thread) ?? [];
    // A branch begins at the question of what it replaces.
    const at = known.findIndex((one) => one.message_id === replaces);
    const kept = at < 0 ? known : known.slice(0, known[at]?.role === "agent" ? at - 1 : at);
    const id = `msg-${run.id}`;
    const about = { run_id: run.id, agent_name: "echo", status: run.status, ...(run.end === null ? {} : { duration_ms: 5 }) };
    const created_at = this.clock.now / 1000;
    const files = listed(attachments);
    if (role === "user") {
      const question: HistoryMessage = { message_id: id, role, content, created_at, correlation_id: run.key, run: about, ...files };
      this.threads.set(run.thread, [...kept, question]);
      return;
    }
    const sent = filesOf(run, attachments);
    const answer: HistoryMessage = { message_id: `${id}-answer`, role, content, created_at, run: about, reply_to: id, ...sent };
    const answered = kept.flatMap((one) => (one.message_id === id ? [{ ...one, run: about }, answer] : [one]));
    this.threads.set(run.thread, answered);
  }

  /** The newest run. */
  get run(): Run {
    const run = [...this.runs.values()].at(-1);
    if (run === undefined) throw new Error("there is no run");
    return run;
  }

  say(runId: string, content: string): void {
    const run = this.#find(runId);
    run.text += content;
    this.emit(run.session, "partial_result", run.key, { run_id: run.id, content });
  }

  /** Sends a question of a run; by default an approval that expires in a minute. */
  ask(runId: string, question: Partial<AskedQuestion> = {}): string {
    this.#count += 1;
    const asked: AskedQuestion = {
      question_id: `q-${this.#count}`,
      kind: "approval",
      prompt: "May I?",
      expires_at: this.clock.now / 1000 + 60,
      ...question,
    };
    this.#find(runId).questions.push(asked);
    this.event(runId, "agent_asking", asked);
    return asked.question_id;
  }

  /** Closes a question; false if it is not open. */
  close(question_id: string, outcome: string, more: { answer?: JsonValue; user_id?: string } = {}): boolean {
    const isIt = (one: HistoryQuestion): boolean => one.question_id === question_id && isOpen(one);
    const run = [...this.runs.values()].find(({ questions }) => questions.some(isIt));
    if (run === undefined) return false;
    run.questions = run.questions.map((one) => (isIt(one) ? { ...one, outcome, ...more } : one));
    this.event(run.id, "agent_answered", { question_id, outcome, ...more });
    return true;
  }

  #takeAnswer(socket: FakeSocket, session: Session, payload: ClientPayloads["answer"], id = ""): void {
    const { question_id, answer, approve } = payload;
    const outcome = approve === undefined ? "answered" : approve ? "approved" : "denied";
    const more = { user_id: session.user, ...(answer === undefined ? {} : { answer }) };
    const run = [...this.runs.values()].find(({ questions }) => questions.some((one) => one.question_id === question_id));
    if (run === undefined || !this.close(question_id, outcome, more)) this.error(socket, "ANSWER_REJECTED", id);
    else if (run.session !== session && this.sendsCopies) {
      this.emit(session, "agent_answered", id, { run_id: run.id, question_id, outcome, ...more });
    }
  }

  /** @param attachments The ids of the files of the answer. */
  end(runId: string, status: EventPayloads["agent_completed"]["status"] = "completed", attachments?: readonly string[]): void {
    const run = this.#find(runId);
    run.status = status;
    for (const { question_id } of run.questions) this.close(question_id, "cancelled");
    run.end = { run_id: run.id, status, duration_ms: 5, result: run.text, ...filesOf(run, attachments) };
    this.#record(run, "agent", run.text, attachments);
    this.emit(run.session, "agent_completed", run.key, run.end);
  }

  event<T extends keyof EventPayloads>(runId: string, type: T, payload: Omit<EventPayloads[T], "run_id">): void {
    const run = this.#find(runId);
    this.emit(run.session, type, run.key, { run_id: runId, ...payload } as EventPayloads[T]);
  }

  /** Sends bytes of a run, which become a file; returns its id. */
  sayBytes(runId: string, media_type: string, data: ArrayBuffer): string {
    this.#count += 1;
    const file_id = `file-${this.#count}`;
    const run = this.#find(runId);
    const payload = { run_id: runId, media_type, file_id, bytes: data.byteLength };
    (run.files ??= []).push({ file_id, name: "", media_type, bytes: data.byteLength });
    this.emit(run.session, "binary_result", run.key, payload, data);
    return file_id;
  }

  emit<T extends keyof EventPayloads>(session: Session, type: T, key: string, payload: EventPayloads[T], data?: ArrayBuffer): void {
    session.seq += 1;
    const event = {
      type,
      payload,
      timestamp: this.clock.now / 1000,
      correlation_id: key,
      seq: session.seq,
      ...(data === undefined ? {} : { data }),
    } as ServerMessage & { seq: number };
    session.events.push(event);
    const run = this.runs.get(payload.run_id);
    if (run !== undefined && type !== "message_confirmed") this.rooms.mirror(run.thread, type, payload, session.id);
    if (session.socket?.state !== "open") return;
    session.written = session.seq;
    session.socket.deliver(event);
  }

  control(socket: FakeSocket, type: string, payload: unknown, correlation_id?: string): void {
    socket.deliver({
      type,
      payload,
      timestamp: this.clock.now / 1000,
      ...(correlation_id === undefined ? {} : { correlation_id }),
    });
  }

  error(socket: FakeSocket, code: string, correlation_id?: string, more: object = {}): void {
    const body = {
      code,
      error: `This is ${code}.`,
      timestamp: this.clock.now / 1000,
      recoverable: true,
      help: "Help.",
      ...more,
    };
    this.control(socket, "error", body, correlation_id);
  }

  /** The session of the newest socket. */
  get session(): Session {
    const session = this.sessions.get(this.socket.session);
    if (session === undefined) throw new Error("there is no session");
    return session;
  }

  /** The contents of the user messages, in order. */
  get contents(): string[] {
    return this.received.flatMap((m) => (m.type === "user_message" ? [m.payload.content] : []));
  }

  of<T extends ClientMessage["type"]>(type: T): Extract<ClientMessage, { type: T }>[] {
    return this.received.filter((m): m is Extract<ClientMessage, { type: T }> => m.type === type);
  }

  #acknowledge(session: Session, seq: number): void {
    session.acknowledged = Math.max(session.acknowledged, seq);
    while ((session.events[0]?.seq ?? Infinity) <= session.acknowledged) session.events.shift();
  }

  #find(id: string): Run {
    const run = this.runs.get(id);
    if (run === undefined) throw new Error(`there is no run ${id}`);
    return run;
  }
}

const isOpen = ({ outcome }: HistoryQuestion): boolean => outcome === undefined;

/** The files of an answer: those that the agent has sent, and those that it has attached. */
function filesOf(run: Run, attachments?: readonly string[]): Pick<HistoryMessage, "attachments" | "files"> {
  const files = [...(run.files ?? []), ...(listed(attachments).files ?? [])];
  return files.length === 0 ? {} : { attachments: files.map(({ file_id }) => file_id), files };
}

type Event = Session["events"][number];

function merged(events: readonly Event[]): Event[] {
  const all: Event[] = [];
  for (const event of events) {
    const before = all.at(-1);
    if (event.type === "partial_result" && before?.type === "partial_result" && before.payload.run_id === event.payload.run_id) {
      const { run_id } = event.payload;
      const payload = { run_id, content: before.payload.content + event.payload.content };
      all.splice(-1, 1, { ...event, payload, seq_from: before.seq_from ?? before.seq });
    } else all.push(event);
  }
  return all;
}

const WARNING = 60_000; // ms before its end that a server warns about a token

const isRejectable = ({ type }: ClientMessage): boolean =>
  type === "user_message" || type === "agent_request" || type === "get_thread_history" || type === "answer";
