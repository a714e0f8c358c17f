/** What an application sees of a client: one frozen value for each state. */

import type {
  EndStatus,
  ErrorBody,
  JsonValue,
  ResetReason,
  RunStatus,
  ServerFeatures,
  ServerLimits,
  Verdict,
} from "../protocol/messages.js";

export type Status =
  | "CONNECTING"
  | "CONNECTED"
  | "DISCONNECTING"
  | "DISCONNECTED"
  | "RECONNECTING"
  | "ERROR";

/** What `/ws/config` says of the server. */
export interface ServerConfig {
  readonly version: string;
  readonly features: ServerFeatures;
  /** As the server names them: paths, or addresses. */
  readonly endpoints: Readonly<Record<string, string>>;
  readonly connection_limits: ServerLimits;
  readonly auth: { readonly methods: readonly string[] };
  /** Unix seconds. */
  readonly server_time: number;
}

export interface ConnectionStats {
  /** Milliseconds since 1970, of the connection that stands. */
  readonly connected_at?: number;
  /** Milliseconds since 1970, of the last frame in either direction. */
  readonly last_activity?: number;
  readonly messages_sent: number;
  readonly messages_received: number;
  readonly errors_encountered: number;
  readonly reconnections: number;
  readonly connection_id?: string;
  readonly average_reconnection_ms?: number;
  /** Messages that wait for a connection, for the rate, or for their confirmation. */
  readonly queued: number;
}

/** `pending`: on its way; `unconfirmed`: the line dropped before an answer. */
export type DeliveryState = "pending" | "confirmed" | "unconfirmed" | "failed";

export interface Thought {
  readonly thought: string;
  readonly step_number?: number;
  readonly total_steps?: number;
}

export interface ToolCall {
  readonly tool_call_id: string;
  readonly tool_name: string;
  readonly arguments: JsonValue;
  /** `cut`: the run ended before the tool did. */
  readonly status: "running" | "succeeded" | "failed" | "cut";
  readonly result?: JsonValue;
  readonly error?: string;
  readonly duration_ms?: number;
  readonly truncated?: boolean;
}

/** One agent at work, put together from its events. */
export interface Run {
  readonly run_id: string;
  readonly correlation_id: string | null;
  readonly thread_id: string | null;
  readonly agent_name: string | null;
  readonly status: RunStatus;
  /** Place in the queue, from 1, while it is `queued`. */
  readonly position: number | null;
  readonly attempt: number;
  /** The text so far. */
  readonly text: string;
  /** The text lacks its beginning, or the end was cut. */
  readonly truncated: boolean;
  readonly thoughts: readonly Thought[];
  readonly tools: readonly ToolCall[];
  readonly result: JsonValue | undefined;
  readonly error: ErrorBody | null;
  readonly duration_ms: number | null;
  /** It has ended, but something of it did not obey its cancellation, and may still be at work. */
  readonly abandoned: boolean;
}

/** What the user said. */
export interface UserEntry {
  readonly role: "user";
  /** Stable, for React's `key`. */
  readonly id: string;
  readonly type: string;
  readonly payload: Readonly<Record<string, unknown>>;
  readonly content: string;
  readonly correlation_id: string | null;
  readonly thread_id: string | null;
  readonly message_id: string | null;
  readonly run_id: string | null;
  readonly run_status: RunStatus | null;
  readonly status: DeliveryState;
  readonly error: ErrorBody | null;
  /** Unix seconds. */
  readonly timestamp: number;
}

/** What an agent said: of a run that was seen, or from the history. */
export interface AgentEntry {
  readonly role: "agent";
  readonly id: string;
  readonly type: "agent_message";
  readonly payload: Readonly<Record<string, unknown>>;
  readonly content: string;
  readonly correlation_id: string | null;
  readonly thread_id: string | null;
  readonly message_id: string | null;
  readonly run_id: string | null;
  readonly status: RunStatus;
  readonly error: ErrorBody | null;
  readonly truncated: boolean;
  readonly timestamp: number;
}

export type ChatMessage = UserEntry | AgentEntry;

export interface SessionInfo {
  readonly session_id: string;
  readonly connection_id: string;
  readonly user_id: string;
  readonly verdict: Verdict;
  readonly reason: ResetReason | null;
}

/** When the next attempt comes, while there is none. */
export interface Retry {
  /** Milliseconds since 1970. */
  readonly at: number;
  /** How long the wait is altogether. */
  readonly delay_ms: number;
  /** Counts from 1, afresh after a connection that brought something. */
  readonly attempt: number;
}

/** `holder`: this tab has the socket for all; `follower`: another one has; `alone`: no sharing. */
export type Role = "alone" | "holder" | "follower";

export interface Snapshot {
  readonly status: Status;
  readonly isConnected: boolean;
  readonly isReconnecting: boolean;
  readonly config: ServerConfig | null;
  readonly connectionStats: ConnectionStats;
  readonly lastError: ErrorBody | null;
  readonly messages: readonly ChatMessage[];
  readonly runs: readonly Run[];
  readonly queued: number;
  readonly retry: Retry | null;
  readonly session: SessionInfo | null;
  readonly role: Role;
  readonly threadId: string;
}

export const isEnd = (status: RunStatus): status is EndStatus =>
  status !== "queued" && status !== "running";
