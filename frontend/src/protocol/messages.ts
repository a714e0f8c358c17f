/**
 * Every message of `netra.v1` and `netra.v2`, both directions, as types.
 *
 * The names are the server's. `npm run asyncapi` fails if these types and `docs/asyncapi.yaml` differ.
 */

import type {
  Confirmation,
  EndStatus,
  ErrorBody,
  JsonObject,
  JsonValue,
  ListedAgent,
  ListedThread,
  PresenceChange,
  QuestionKind,
  Rating,
  ResetReason,
  RoomConfirmation,
  RoomVerdict,
  RunStatus,
  ThreadChange,
  UsageUnit,
  Verdict,
} from "./values.js";

export * from "./requests.js";
export * from "./values.js";

export interface ServerFeatures {
  readonly json_first: boolean;
  readonly auth_required: boolean;
  readonly heartbeat_supported: boolean;
  readonly reconnection_supported: boolean;
  readonly rate_limiting: boolean;
  readonly message_queuing: boolean;
  readonly resume: boolean;
  readonly tickets: boolean;
}

export interface ServerLimits {
  readonly max_connections_per_user: number;
  /** Messages in any minute. */
  readonly max_message_rate: number;
  /** Milliseconds. */
  readonly heartbeat_interval: number;
  /** Bytes. */
  readonly max_message_size: number;
  /** Milliseconds. */
  readonly resume_window: number;
  /** Bytes; absent if the server accepts no files. */
  readonly max_file_size?: number;
}

/** What an agent asks the user. */
export interface AskedQuestion {
  readonly question_id: string;
  readonly kind: QuestionKind;
  readonly prompt: string;
  /** A JSON Schema of the answer. */
  readonly schema?: JsonObject;
  /** Of an approval. */
  readonly tool_name?: string;
  readonly arguments?: JsonObject;
  /** Unix seconds. */
  readonly expires_at: number;
}

/** An open question, as a resume lists it; if it is long, without its texts. */
export interface ResumedQuestion extends Omit<AskedQuestion, "prompt"> {
  readonly prompt?: string;
  /** The texts are only in the thread's history. */
  readonly truncated?: boolean;
}

/** A question as the history lists it: without an outcome while it is open. */
export interface HistoryQuestion extends AskedQuestion {
  /** One of `QUESTION_OUTCOMES`, or one of a newer server. */
  readonly outcome?: string;
  readonly answer?: JsonValue;
  readonly user_id?: string;
  /** The prompt was cut, and schema, arguments and answer were left out; only of a closed one. */
  readonly truncated?: boolean;
}

/** A run whose end the client has not acknowledged, as a resume reports it. */
export interface ResumedRun {
  readonly run_id: string;
  readonly thread_id: string;
  readonly correlation_id: string;
  /** Its number in the deltas of a connection with `netra.v2`. */
  readonly run?: number;
  readonly status: RunStatus;
  /** Its text up to and including `resume.last_seq`. */
  readonly content: string;
  readonly truncated?: boolean;
  /** Those that are open. */
  readonly questions?: readonly ResumedQuestion[];
  /** What the agent did before the end of `content`, in order. */
  readonly steps?: readonly HistoryStep[];
}

export interface ResumeState {
  readonly verdict: Verdict;
  readonly reason?: ResetReason;
  readonly replayed: number;
  readonly last_seq: number;
  readonly runs: readonly ResumedRun[];
}

/** What an agent did: a `thought`, a `tool` call, a `question`, or a type of a newer server. */
export interface HistoryStep {
  readonly type: string;
  /** Its place in the answer: after so many characters (Unicode code points). */
  readonly at: number;
  readonly thought?: string;
  readonly step_number?: number;
  readonly total_steps?: number;
  readonly tool_call_id?: string;
  readonly tool_name?: string;
  readonly arguments?: JsonValue;
  /** Absent if the run ended before the tool. */
  readonly success?: boolean;
  readonly result?: JsonValue;
  readonly error?: string;
  readonly duration_ms?: number;
  readonly question_id?: string;
  readonly truncated?: boolean;
}

/** A file of a message, for display. */
export interface ListedFile {
  readonly file_id: string;
  /** Without a path; may be empty. */
  readonly name: string;
  /** Detected from its content. */
  readonly media_type: string;
  readonly bytes: number;
}

export interface HistoryMessage {
  readonly message_id: string;
  readonly role: "user" | "agent";
  readonly content: string;
  /** Unix seconds. */
  readonly created_at: number;
  readonly correlation_id?: string;
  readonly run?: {
    readonly run_id: string;
    readonly agent_name: string;
    readonly status: RunStatus;
    readonly questions?: readonly HistoryQuestion[];
    readonly duration_ms?: number;
  };
  readonly truncated?: boolean;
  /** The message that an agent's message answers. */
  readonly reply_to?: string;
  /** What the agent did, in order. */
  readonly steps?: readonly HistoryStep[];
  /** The user's, on an agent's message. */
  readonly feedback?: { readonly rating: Rating; readonly comment?: string };
  /** The ids of its files. */
  readonly attachments?: readonly string[];
  /** The same files. */
  readonly files?: readonly ListedFile[];
}

/** A run of a watched thread, as of the `offset` of its `room_joined`. */
export interface WatchedRun {
  readonly run_id: string;
  readonly message_id: string;
  readonly agent_name: string;
  readonly status: RunStatus;
  /** Its text so far. */
  readonly content: string;
  readonly truncated?: boolean;
  /** Those that are open. */
  readonly questions: readonly ResumedQuestion[];
  /** What the agent did so far, in order. */
  readonly steps?: readonly HistoryStep[];
}

/** An event of a room: a type of `RoomEvents`, or another one of a newer server. */
export interface RoomEventBody {
  readonly type: string;
  readonly payload: JsonObject;
}

export interface ControlPayloads {
  connection_established: {
    readonly connection_id: string;
    readonly session_id: string;
    readonly user_id: string;
    readonly server_time: number;
    readonly heartbeat_interval: number;
    readonly features: ServerFeatures;
    readonly limits: ServerLimits;
    readonly resume: ResumeState;
    /** The room of the user. */
    readonly user_room: string;
    /** The first one is the default. */
    readonly agents: readonly ListedAgent[];
  };
  pong: JsonObject;
  heartbeat: { readonly server_time: number };
  auth_ok: { readonly expires_at: number };
  auth_expiring: { readonly expires_at: number };
  /** An agent has used 80 % or more of what it may use for the user today (UTC). */
  usage_warning: {
    readonly agent_name: string;
    readonly unit: UsageUnit;
    readonly limit: number;
    readonly used: number;
  };
  server_draining: { readonly reason: string; readonly reconnect_after_ms: number };
  thread_history: {
    readonly thread_id: string;
    readonly messages: readonly HistoryMessage[];
    readonly has_more: boolean;
  };
  room_joined: {
    readonly room: string;
    readonly epoch: string;
    /** Events after this one follow. */
    readonly offset: number;
    readonly verdict: RoomVerdict;
    readonly replayed: number;
    /** Of a thread: the runs that have not ended. */
    readonly runs?: readonly WatchedRun[];
  };
  room_left: { readonly room: string };
  room_confirmed: {
    readonly room: string;
    readonly offset: number;
    readonly status: RoomConfirmation;
  };
  room_event: {
    readonly room: string;
    readonly offset: number;
    readonly epoch: string;
    readonly event: RoomEventBody;
    /** Unix seconds. */
    readonly timestamp: number;
    /** Of merged text: the first offset that it stands for. */
    readonly offset_from?: number;
  };
  room_gap: { readonly room: string; readonly from: number; readonly to: number };
  presence: {
    readonly room: string;
    readonly members: readonly { readonly user_id: string; readonly connections: number }[];
  };
  presence_changed: {
    readonly room: string;
    readonly user_id: string;
    readonly change: PresenceChange;
  };
  thread_list: { readonly threads: readonly ListedThread[]; readonly has_more: boolean };
  thread_changed: {
    readonly thread_id: string;
    readonly change: ThreadChange;
    /** Absent if it is deleted. */
    readonly thread?: ListedThread;
  };
  error: ErrorBody;
}

export interface EventPayloads {
  message_confirmed: {
    readonly message_id: string;
    readonly run_id: string;
    readonly thread_id: string;
    readonly status: Confirmation;
    readonly position?: number;
    readonly run_status?: RunStatus;
  };
  agent_started: {
    readonly run_id: string;
    readonly agent_name: string;
    readonly thread_id: string;
    readonly attempt: number;
    /** Its number in the deltas of a connection with `netra.v2`. */
    readonly run?: number;
  };
  agent_thinking: {
    readonly run_id: string;
    readonly thought: string;
    readonly step_number?: number;
    readonly total_steps?: number;
  };
  partial_result: { readonly run_id: string; readonly content: string };
  tool_executing: {
    readonly run_id: string;
    readonly tool_call_id: string;
    readonly tool_name: string;
    readonly arguments: JsonValue;
    readonly truncated?: boolean;
  };
  tool_completed: {
    readonly run_id: string;
    readonly tool_call_id: string;
    readonly tool_name: string;
    readonly success: boolean;
    readonly duration_ms: number;
    readonly result?: JsonValue;
    readonly error?: string;
    readonly truncated?: boolean;
  };
  /** Bytes of an answer, which are stored as a file. */
  binary_result: {
    readonly run_id: string;
    readonly media_type: string;
    readonly file_id: string;
    /** Their number. */
    readonly bytes: number;
  };
  agent_asking: { readonly run_id: string } & AskedQuestion;
  agent_answered: {
    readonly run_id: string;
    readonly question_id: string;
    /** One of `QUESTION_OUTCOMES`, or one of a newer server. */
    readonly outcome: string;
    readonly answer?: JsonValue;
    /** Who answered. */
    readonly user_id?: string;
  };
  agent_usage: {
    readonly run_id: string;
    readonly model: string;
    readonly input_tokens: number;
    readonly output_tokens: number;
    readonly cost?: number;
  };
  agent_completed: {
    readonly run_id: string;
    readonly status: EndStatus;
    readonly duration_ms: number;
    readonly result?: JsonValue;
    readonly error?: ErrorBody;
    readonly truncated?: boolean;
    /** A part of the run ignored its cancellation, and may still be running. */
    readonly abandoned?: true;
    /** The ids of the files that the agent has attached. */
    readonly attachments?: readonly string[];
    /** The same files. */
    readonly files?: readonly ListedFile[];
  };
}

/** The known events of rooms, besides those of runs. */
export interface RoomEvents extends Omit<EventPayloads, "message_confirmed"> {
  /** `attachments`: the id of the file with its bytes. */
  room_message: { readonly user_id?: string; readonly content: JsonValue; readonly attachments?: readonly string[] };
  user_message: {
    readonly message_id: string;
    readonly run_id: string;
    readonly user_id: string;
    readonly content: string;
    readonly replaces?: string;
    readonly attachments?: readonly string[];
  };
}
export type RoomEventType = keyof RoomEvents;

export type ControlType = keyof ControlPayloads;
export type EventType = keyof EventPayloads;
export type ServerType = ControlType | EventType;

interface Envelope {
  /** Unix seconds. */
  readonly timestamp: number;
  readonly correlation_id?: string;
}

/** A message without a number, which is never replayed. */
export type ControlMessage = {
  [T in ControlType]: Envelope & { readonly type: T; readonly payload: ControlPayloads[T] };
}[ControlType];

/** A numbered event of a session: delivered in order, once, and replayed after a reconnection. */
export type EventMessage = {
  [T in EventType]: Envelope & {
    readonly type: T;
    readonly payload: EventPayloads[T];
    readonly seq: number;
    readonly seq_from?: number;
  } & (T extends "binary_result" ? { /** The bytes, if they came with the message. */ readonly data?: ArrayBuffer } : unknown);
}[EventType];

export type ServerMessage = ControlMessage | EventMessage;
export type ServerMessageOf<T extends ServerType> = Extract<ServerMessage, { readonly type: T }>;
