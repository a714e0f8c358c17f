/** The messages of a client, as types. */

import type { JsonObject, JsonValue, OnBusy, Rating } from "./values.js";

export interface UserMessagePayload {
  readonly content: string;
  readonly thread_id?: string;
  readonly correlation_id?: string;
  readonly agent?: string;
  readonly on_busy?: OnBusy;
  readonly deadline_ms?: number;
  /** A `message_id` of the thread: that message and all later ones leave the history. */
  readonly replaces?: string;
  /** The ids of uploaded files. */
  readonly attachments?: readonly string[];
}

export interface AgentRequestPayload {
  readonly agent: string;
  readonly input: JsonObject | string;
  readonly thread_id?: string;
  readonly on_busy?: OnBusy;
  readonly deadline_ms?: number;
  /** The ids of uploaded files. */
  readonly attachments?: readonly string[];
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
  join_room: { readonly room: string; readonly after?: number; readonly epoch?: string };
  leave_room: { readonly room: string };
  room_message: { readonly room: string; readonly content: RoomContent };
  get_presence: { readonly room: string };
  watch_thread: {
    readonly thread_id: string;
    /** The user of a thread that is shared. */
    readonly owner?: string;
    readonly after?: number;
    readonly epoch?: string;
  };
  unwatch_thread: { readonly thread_id: string; readonly owner?: string };
  list_threads: {
    readonly limit?: number;
    /** A `thread_id`: the list begins after it. */
    readonly before?: string;
    /** A text in a title or a message. */
    readonly query?: string;
  };
  rename_thread: { readonly thread_id: string; readonly title: string };
  mark_read: { readonly thread_id: string; readonly message_id: string };
  delete_thread: { readonly thread_id: string };
  feedback: {
    /** Of an agent's message. */
    readonly message_id: string;
    /** Null takes the feedback back. */
    readonly rating: Rating | null;
    readonly comment?: string;
  };
}
/** What a client publishes in a room. */
export type RoomContent = JsonObject | string;
export type ClientType = keyof ClientPayloads;

/** Bytes that go with a message, in one binary frame of `netra.v2`. */
export interface MessageData {
  readonly media_type: string;
  readonly bytes: ArrayBuffer;
}

/** A frame as the client writes it. */
export type ClientMessage = {
  [T in ClientType]: {
    readonly type: T;
    readonly payload: ClientPayloads[T];
    readonly correlation_id?: string;
    readonly timestamp?: number;
    /** Only of a `user_message` and a `room_message`. */
    readonly data?: MessageData;
  };
}[ClientType];

/** A message that starts a run, and is confirmed by the server. */
export type RunRequest = Extract<ClientMessage, { readonly type: "user_message" | "agent_request" }>;

/** A message that is answered directly, or not at all, and is never stored. */
export type ControlRequest = Extract<
  ClientMessage,
  { readonly type: Exclude<ClientType, "auth" | "ack" | "user_message" | "agent_request"> }
>;
