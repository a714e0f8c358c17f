/** The state that an application sees: a new value after each change. */

import type {
  EndStatus,
  ErrorBody,
  JsonObject,
  JsonValue,
  ListedAgent,
  ListedFile,
  QuestionKind,
  ResetReason,
  RunStatus,
  Verdict,
} from "../protocol/messages.js";
import type { ServerConfig } from "../protocol/discovery.js";
import type { RoomState } from "./rooms.js";
import type { ThreadList } from "./thread-list.js";

export type Status =
  | "CONNECTING"
  | "CONNECTED"
  | "DISCONNECTING"
  | "DISCONNECTED"
  | "RECONNECTING"
  | "ERROR";

/** The transport of the frames: server-sent events or long-polls where WebSockets do not get through. */
export type Transport = "websocket" | "sse" | "long-poll";

export interface ConnectionStats {
  /** Milliseconds since 1970; absent without a connection. */
  readonly connected_at?: number;
  /** Milliseconds since 1970, of the last frame in either direction. */
  readonly last_activity?: number;
  /**
   * Messages of the application: `user_message`, `agent_request`, `room_message` and `answer`. One
   * that is sent again counts once.
   */
  readonly messages_sent: number;
  /** Messages of agents (`agent_started`, `partial_result`, …) and of rooms. */
  readonly messages_received: number;
  /** `error` messages of the server, failed attempts to connect, lost connections, unreadable frames. */
  readonly errors_encountered: number;
  /** Connections after the first one, unless the application had disconnected. */
  readonly reconnections: number;
  readonly connection_id?: string;
  /** Absent without a connection. */
  readonly transport?: Transport;
  /** From the loss of a connection to the next one. */
  readonly average_reconnection_ms?: number;
  /** Messages that wait for a connection, for the rate limit, or for their confirmation. */
  readonly queued: number;
}

/** `pending`: not yet answered; `unconfirmed`: the connection was lost before an answer. */
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
  /** `cut`: the run ended before the tool. */
  readonly status: "running" | "succeeded" | "failed" | "cut";
  readonly result?: JsonValue;
  readonly error?: string;
  readonly duration_ms?: number;
  readonly truncated?: boolean;
}

/** What an agent asks the user while its run waits. */
export interface Question {
  readonly question_id: string;
  readonly run_id: string;
  readonly kind: QuestionKind;
  readonly prompt: string;
  /** A JSON Schema of the answer; null: any answer. */
  readonly schema: JsonObject | null;
  /** Of an approval: the tool that would be executed, with its arguments. */
  readonly tool_name: string | null;
  readonly arguments: JsonObject | null;
  /** Unix seconds, by the server's clock: see `Snapshot.clockOffset`. */
  readonly expires_at: number;
  /**
   * Null while it is open; then `answered`, `approved`, `denied`, `expired`, `cancelled`, or another
   * one of a newer server. `unknown`: it was closed while this client was not connected.
   */
  readonly outcome: string | null;
  readonly answer: JsonValue | undefined;
  /** Who answered. */
  readonly user_id: string | null;
}

/** The tokens that a run used with one model. */
export interface Usage {
  readonly model: string;
  readonly input_tokens: number;
  readonly output_tokens: number;
  readonly cost?: number;
}

/**
 * A part of an answer: a piece of its text, or a step of the agent at its place in the text.
 *
 * `from` and `to` count as JavaScript's strings do; `to` is null while the text may go on.
 */
export type RunPart =
  | { readonly type: "text"; readonly from: number; readonly to: number | null }
  /** One of `thoughts`. */
  | { readonly type: "thought"; readonly index: number }
  | { readonly type: "tool"; readonly tool_call_id: string }
  /** One of `attachments`, which the agent sent at this place. */
  | { readonly type: "file"; readonly file_id: string }
  /** One of `questions`; a long one is known once the thread's history is loaded. */
  | { readonly type: "question"; readonly question_id: string };

/** One run of an agent, assembled from its events. */
export interface Run {
  readonly run_id: string;
  readonly correlation_id: string | null;
  readonly thread_id: string | null;
  readonly agent_name: string | null;
  readonly status: RunStatus;
  /** Position in the queue, from 1, while it is `queued`. */
  readonly position: number | null;
  readonly attempt: number;
  /** The text so far. */
  readonly text: string;
  /** The text lacks its beginning or its end. */
  readonly truncated: boolean;
  /** The text, thoughts, tools, files and questions in the order in which they happened. Text that follows text changes nothing here. */
  readonly parts: readonly RunPart[];
  readonly thoughts: readonly Thought[];
  readonly tools: readonly ToolCall[];
  /** Open and closed ones, in the order in which they were asked. */
  readonly questions: readonly Question[];
  /** One entry for each model; empty if the agent reports none. */
  readonly usage: readonly Usage[];
  readonly result: JsonValue | undefined;
  readonly error: ErrorBody | null;
  readonly duration_ms: number | null;
  /** The run has ended, but a part of it ignored its cancellation and may still be running. */
  readonly abandoned: boolean;
  /** The files that the agent has sent so far; those that it has attached are known at its end. */
  readonly attachments: readonly ListedFile[];
}

/** A message of the user. */
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
  readonly attachments: readonly ListedFile[];
  /** Unix seconds. */
  readonly timestamp: number;
}

/** A message of an agent, from a run or from the history. */
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
  /** The order of the text and of the run's thoughts, tools, files and questions. */
  readonly parts: readonly RunPart[];
  /** The `message_id` of the message that it answers; null if that is not known. */
  readonly reply_to: string | null;
  readonly attachments: readonly ListedFile[];
  readonly timestamp: number;
}

export type ChatMessage = UserEntry | AgentEntry;

export interface SessionInfo {
  readonly session_id: string;
  readonly connection_id: string;
  /** The subprotocol of the connection: `netra.v2`, or `netra.v1`, which carries no bytes. */
  readonly subprotocol: string;
  readonly user_id: string;
  readonly verdict: Verdict;
  readonly reason: ResetReason | null;
  /** The room of the user, which the application may publish in. */
  readonly user_room: string;
  /** The agents, the default one first. */
  readonly agents: readonly ListedAgent[];
}

/** The next attempt to connect, while the client waits for it. */
export interface Retry {
  /** Milliseconds since 1970. */
  readonly at: number;
  /** The whole delay. */
  readonly delay_ms: number;
  /** Counts from 1; starts again after a connection that delivered something. */
  readonly attempt: number;
  /** Milliseconds since 1970: `retryNow` does not begin the attempt before that. */
  readonly earliest: number;
}

/** `leader`: this tab has the connection for all tabs; `follower`: another one has; `alone`: no sharing. */
export type Role = "alone" | "leader" | "follower";

/** The state of the connection, as the leader reports it to the other tabs. */
export interface ConnectionState {
  readonly status: Status;
  readonly config: ServerConfig | null;
  readonly stats: ConnectionStats;
  readonly lastError: ErrorBody | null;
  readonly retry: Retry | null;
  readonly session: SessionInfo | null;
  readonly tokenEndsAt: number | null;
  readonly clockOffset: number;
}

/** Messages and runs, which belong to one state. */
export interface Outline {
  readonly messages: readonly ChatMessage[];
  readonly runs: readonly Run[];
}

export interface Snapshot {
  readonly status: Status;
  readonly isConnected: boolean;
  readonly isReconnecting: boolean;
  readonly config: ServerConfig | null;
  readonly connectionStats: ConnectionStats;
  readonly lastError: ErrorBody | null;
  /** Composed when it is read, because each word of an answer changes it: see `outline`. */
  readonly messages: readonly ChatMessage[];
  /** Likewise. */
  readonly runs: readonly Run[];
  /**
   * `messages` and `runs` without the text that follows text: the same object while answers are only
   * written on. A list that selects from it does not change with each word.
   */
  readonly outline: Outline;
  /** The runs that received text since the outline changed, with that text, by id. */
  readonly writing: ReadonlyMap<string, Run>;
  readonly queued: number;
  readonly retry: Retry | null;
  readonly session: SessionInfo | null;
  /**
   * When the token ends, in milliseconds since 1970, while it is ending and not renewed; else null.
   */
  readonly tokenEndsAt: number | null;
  /** Milliseconds that the server's clock is ahead of this one; measured at each connection. */
  readonly clockOffset: number;
  readonly role: Role;
  readonly threadId: string;
  /** The rooms and watched threads of this tab, by key: see `roomKey`. */
  readonly rooms: ReadonlyMap<string, RoomState>;
  /** The user's threads, while a component follows them. */
  readonly threads: ThreadList;
}

const byId = new WeakMap<Outline, ReadonlyMap<string, Run>>();

/** A run with its newest text; undefined if it is not shown. Costs the same however many runs there are. */
export function runOf({ outline, writing }: Pick<Snapshot, "outline" | "writing">, runId: string): Run | undefined {
  const written = writing.get(runId);
  if (written !== undefined) return written;
  const known = byId.get(outline) ?? new Map(outline.runs.map((run) => [run.run_id, run]));
  byId.set(outline, known);
  return known.get(runId);
}

export const isEnd = (status: RunStatus): status is EndStatus =>
  status !== "queued" && status !== "running";

/** Whether a question waits for its answer. */
export const isOpen = ({ outcome }: Question): boolean => outcome === null;

/**
 * Milliseconds until a question expires; negative after that.
 *
 * @param now In milliseconds since 1970, by this clock.
 */
export const expiresIn = (
  { expires_at }: Question,
  { clockOffset }: Pick<Snapshot, "clockOffset">,
  now: number,
): number => expires_at * 1000 - (now + clockOffset);
