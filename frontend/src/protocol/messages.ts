/**
 * Every message of `netra.v1`, both directions, as types.
 *
 * The names are the server's. `npm run asyncapi` fails if these types and `docs/asyncapi.yaml` differ.
 */

export type JsonValue =
  | null
  | boolean
  | number
  | string
  | readonly JsonValue[]
  | { readonly [name: string]: JsonValue };
export type JsonObject = { readonly [name: string]: JsonValue };

export const SUBPROTOCOL = "netra.v1";

export const ON_BUSY = ["enqueue", "reject", "interrupt"] as const;
export type OnBusy = (typeof ON_BUSY)[number];

export const END_STATUSES = [
  "completed",
  "failed",
  "cancelled",
  "timed_out",
  "interrupted",
] as const;
export type EndStatus = (typeof END_STATUSES)[number];

export const RUN_STATUSES = ["queued", "running", ...END_STATUSES] as const;
export type RunStatus = (typeof RUN_STATUSES)[number];

export const CONFIRMATIONS = ["accepted", "queued", "duplicate"] as const;
export type Confirmation = (typeof CONFIRMATIONS)[number];

export const VERDICTS = ["new", "exact", "gap", "reset"] as const;
export type Verdict = (typeof VERDICTS)[number];

export const RESET_REASONS = ["unknown", "ahead"] as const;
export type ResetReason = (typeof RESET_REASONS)[number];

export const QUESTION_KINDS = ["question", "approval"] as const;
export type QuestionKind = (typeof QUESTION_KINDS)[number];

/** The outcomes that this version knows; a newer server may have more. */
export const QUESTION_OUTCOMES = ["answered", "approved", "denied", "expired", "cancelled"] as const;
export type QuestionOutcome = (typeof QUESTION_OUTCOMES)[number];

/** The body of an error, in a frame, at the end of a run and in an HTTP answer. */
export interface ErrorBody {
  readonly code: string;
  readonly error: string;
  /** Unix seconds. */
  readonly timestamp: number;
  readonly recoverable: boolean;
  readonly help: string;
  readonly retry_after_ms?: number;
  readonly error_id?: string;
}

// Client to server.

export interface UserMessagePayload {
  readonly content: string;
  readonly thread_id?: string;
  readonly correlation_id?: string;
  readonly agent?: string;
  readonly on_busy?: OnBusy;
  readonly deadline_ms?: number;
}

export interface AgentRequestPayload {
  readonly agent: string;
  readonly input: JsonObject | string;
  readonly thread_id?: string;
  readonly on_busy?: OnBusy;
  readonly deadline_ms?: number;
}

export interface ClientPayloads {
  ping: JsonObject;
  pong: JsonObject;
  auth: { readonly token: string };
  ack: { readonly seq: number };
  user_message: UserMessagePayload;
  agent_request: AgentRequestPayload;
  stop_agent: { readonly run_id: string };
  get_thread_history: {
    readonly thread_id: string;
    readonly limit?: number;
    readonly before?: string;
  };
  answer: {
    readonly question_id: string;
    /** Of a question; not null. */
    readonly answer?: JsonValue;
    /** Of an approval. */
    readonly approve?: boolean;
  };
}
export type ClientType = keyof ClientPayloads;

/** A frame as the client writes it. */
export type ClientMessage = {
  [T in ClientType]: {
    readonly type: T;
    readonly payload: ClientPayloads[T];
    readonly correlation_id?: string;
    readonly timestamp?: number;
  };
}[ClientType];

/** A message that starts a run, and is confirmed by the server. */
export type RunRequest = Extract<ClientMessage, { readonly type: "user_message" | "agent_request" }>;

/** A message that is answered directly, or not at all, and is never stored. */
export type ControlRequest = Extract<
  ClientMessage,
  { readonly type: "ping" | "pong" | "stop_agent" | "get_thread_history" | "answer" }
>;

// Server to client.

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
  readonly status: RunStatus;
  /** Its text up to and including `resume.last_seq`. */
  readonly content: string;
  readonly truncated?: boolean;
  /** Those that are open. */
  readonly questions?: readonly ResumedQuestion[];
}

export interface ResumeState {
  readonly verdict: Verdict;
  readonly reason?: ResetReason;
  readonly replayed: number;
  readonly last_seq: number;
  readonly runs: readonly ResumedRun[];
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
  };
  readonly truncated?: boolean;
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
  };
  pong: JsonObject;
  heartbeat: { readonly server_time: number };
  auth_ok: { readonly expires_at: number };
  auth_expiring: { readonly expires_at: number };
  server_draining: { readonly reason: string; readonly reconnect_after_ms: number };
  thread_history: {
    readonly thread_id: string;
    readonly messages: readonly HistoryMessage[];
    readonly has_more: boolean;
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
  };
}

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
  };
}[EventType];

export type ServerMessage = ControlMessage | EventMessage;
export type ServerMessageOf<T extends ServerType> = Extract<ServerMessage, { readonly type: T }>;
