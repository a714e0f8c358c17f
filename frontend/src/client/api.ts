/** The interface of the client: its options and methods. */

import type { Reply } from "../core/questions.js";
import type {
  ClientPayloads,
  ControlPayloads,
  ErrorBody,
  ListedFile,
  Rating,
  RoomContent,
  ServerMessage,
  ServerMessageOf,
  ServerType,
} from "../protocol/messages.js";
import type { FileRequest } from "../connection/files.js";
import type { Snapshot } from "../core/snapshot.js";
import type { FileSource, Upload, UploadItem, UploadOptions } from "../core/uploads.js";

export interface ClientOptions {
  /** The server: `https://host`, `wss://host/ws`, or a path; the page's own `/ws` without it. */
  readonly url?: string | undefined;
  /** Returns a valid token of the user; called for each connection and each renewal. */
  readonly getToken?: (() => Promise<string> | string) | undefined;
  /** Attempts in a row without progress; unlimited if absent. */
  readonly maxReconnectAttempts?: number | undefined;
  /** Milliseconds: the bound of the first delay, which doubles with each attempt, up to 30 s. */
  readonly reconnectInterval?: number | undefined;
  /** The thread of this tab; if absent, the tab creates one and keeps it over a reload. */
  readonly threadId?: string | undefined;
  /** False: this tab has a socket and a session of its own. */
  readonly shareAcrossTabs?: boolean | undefined;
}

/** Anything with `type` and `payload`, as in the guide. */
export interface OutgoingMessage extends MessageBytes {
  readonly type: string;
  readonly payload?: Readonly<Record<string, unknown>> | undefined;
  readonly correlation_id?: string | undefined;
}

/** Bytes of a `user_message` or a `room_message`, which are sent with it in one binary frame. */
export interface MessageBytes {
  /**
   * Together with the message at most `max_message_size`; they are copied. They need a connection with
   * `netra.v2`, see `SessionInfo.subprotocol`: on another one the message fails with
   * `BYTES_NOT_SUPPORTED`. Until it is confirmed they are only in memory: a reload drops the message.
   */
  readonly data?: ArrayBuffer | Uint8Array | undefined;
  /** The type of the bytes, for example `image/png`. */
  readonly media_type?: string | undefined;
}

/** The optional fields of a `user_message`. */
export type MessageOptions = Omit<ClientPayloads["user_message"], "content" | "correlation_id">;

export type Handler<M> = (message: M) => void;

/** The server answered a request with an error, or the client was closed before the answer. */
export class RequestError extends Error {
  constructor(readonly body: ErrorBody) {
    super(`${body.code}: ${body.error}`);
    this.name = "RequestError";
  }
}

export interface Subscribe {
  /** Calls `listener` after every change of the snapshot. */
  (listener: () => void): () => void;
  /** Calls `handler` with every message that concerns this tab. */
  (type: "*", handler: Handler<ServerMessage>): () => void;
  <T extends ServerType>(type: T, handler: Handler<ServerMessageOf<T>>): () => void;
}

/** A part of a thread's history: the newest messages, or those before a message. */
export interface HistoryPage {
  readonly limit?: number;
  /** A `message_id`. */
  readonly before?: string;
}

export interface WatchOptions {
  /** The user of a thread that is shared. Its history is not read: it is this other user's. */
  readonly owner?: string | undefined;
}

export interface JoinOptions {
  /** Begins with the events that the room still has, instead of now. */
  readonly history?: boolean | undefined;
}

/** A part of the user's threads. */
export type ThreadsPage = ClientPayloads["list_threads"];

/** Several uploads, for the files of one message. */
export interface UploadList {
  /** The uploads in order: the same array until something changes. Needs no `this`. */
  readonly getSnapshot: () => readonly UploadItem[];
  /** Calls `listener` after every change. Needs no `this`. */
  readonly subscribe: (listener: () => void) => () => void;
  /** Uploads files, a few at once. A file that a message cannot have is in the list as `failed`. */
  add(files: Iterable<FileSource>): void;
  /** Adds files that were uploaded before, for example before a reload. */
  restore(files: Iterable<ListedFile>): void;
  /** Takes a file out of the list; its upload ends. */
  remove(key: string): void;
  /** Begins a failed upload again. */
  retry(key: string): void;
  /** Takes all files out of the list; their uploads end. */
  clear(): void;
}

export interface NetraClient {
  /** Connects, unless it is connected or connecting. */
  connect(): void;
  /** Closes the connection; `connect` opens it again, and resumes the session. */
  disconnect(): void;
  /** Ends the client permanently. Unsent messages stay stored. */
  close(): void;
  /** Connects anew at once, whatever the state. */
  forceReconnect(): void;
  /**
   * Ends the wait before the next attempt to connect: `getSnapshot().retry`. An attempt begins at
   * most once a second, however often this is called, and not before the time that the server gave
   * with `Retry-After`. Does nothing in any other state.
   */
  retryNow(): void;
  /** The current state: the same object until something changes. Needs no `this`. */
  readonly getSnapshot: () => Snapshot;
  readonly subscribe: Subscribe;
  /**
   * Resolves to true once the server has confirmed the message (types without a confirmation: once
   * it is written), to false if it was refused. Offline, the message waits, and survives a reload.
   *
   * It also resolves to false if there has been no attempt to connect for five seconds: before
   * `connect`, after `disconnect`, or in the status ERROR. A `user_message` or `agent_request` then
   * stays queued and is sent with the next connection; its entry in `messages` tells what became of it.
   */
  sendMessage(message: OutgoingMessage): Promise<boolean>;
  /**
   * The error with which `sendMessage` would refuse a message now, without sending or showing
   * anything; null if it would not. Offline too: the limits are those of the last connection, or the
   * server's defaults before the first one.
   */
  checkMessage(message: OutgoingMessage): ErrorBody | null;
  /**
   * Shows a message at once and returns its correlation id; `sendMessage` sends it.
   *
   * @param options Further fields of the payload, the same as for `sendMessage`: with `replaces`, the
   * replaced messages disappear once this one is confirmed.
   */
  sendOptimisticMessage(content: string, type?: string, options?: MessageOptions): string;
  /** Stops showing a message of this tab that failed. Returns whether it was shown. */
  discardMessage(correlationId: string): boolean;
  /**
   * Shows and sends a message again under a new key. Returns the key; null if the message is unknown,
   * or its bytes are not kept any more.
   */
  resend(correlationId: string): string | null;
  /** Resolves to true once the run has ended, to false if the server refuses to stop it. */
  stopRun(runId: string): Promise<boolean>;
  /**
   * Answers a question, `{ answer }`, or an approval, `{ approve }`. Resolves to the question's
   * outcome. Rejects with `RequestError` if the answer is not accepted: `ANSWER_REJECTED` if the question
   * is closed, or the answer does not fit its schema. Offline, it waits for the connection, but does
   * not survive a reload.
   */
  answer(questionId: string, reply: Reply): Promise<string>;
  /**
   * Reads a page of a thread's history and shows it. Rejects with `RequestError`.
   */
  loadThread(threadId: string, page?: HistoryPage): Promise<ControlPayloads["thread_history"]>;
  /** Shows another thread; new messages belong to it. */
  openThread(threadId: string): void;
  /**
   * Shows the runs of a thread live, of any session or device, and reads its
   * history. Ends when the returned function is called.
   */
  watchThread(threadId: string, options?: WatchOptions): () => void;
  /**
   * Follows a room: its state is `getSnapshot().rooms.get(roomKey(…))`. Ends when the returned
   * function is called; the room is left a second after the last one.
   */
  joinRoom(room: string, options?: JoinOptions): () => void;
  /**
   * Publishes in a room. Resolves once it is published, once, however often it has to be sent.
   * Rejects with `RequestError`: `FORBIDDEN` if the user may not. Offline, it waits, but does not
   * survive a reload.
   */
  publish(room: string, content: RoomContent, bytes?: MessageBytes): Promise<ControlPayloads["room_confirmed"]>;
  /**
   * The bytes of a file of an answer, if they came with it and are still kept in this tab: the newest
   * 8 MiB. Null otherwise: then `fileRequest` reads them.
   */
  fileBytes(fileId: string): ArrayBuffer | null;
  /** Requests the users in a room. Rejects with `RequestError`. */
  getPresence(room: string): Promise<ControlPayloads["presence"]>;
  /** Keeps `getSnapshot().threads` up to date until the returned function is called. */
  followThreads(): () => void;
  /** Adds older threads to `getSnapshot().threads`. Rejects with `RequestError`. */
  loadMoreThreads(): Promise<void>;
  /** Reads a page of the user's threads, and shows it nowhere. Rejects with `RequestError`. */
  listThreads(page?: ThreadsPage): Promise<ControlPayloads["thread_list"]>;
  /** The following resolve once it is done, in all sessions. They reject with `RequestError`. */
  renameThread(threadId: string, title: string): Promise<void>;
  /** The user has read a thread up to a message. */
  markRead(threadId: string, messageId: string): Promise<void>;
  /** Deletes a thread with all that belongs to it; its runs are stopped. */
  deleteThread(threadId: string): Promise<void>;
  /** Rates an agent's message; null takes the rating back. */
  sendFeedback(messageId: string, rating: Rating | null, comment?: string): Promise<void>;
  /**
   * Uploads a file, whose `file_id` a message then names in `attachments`. Begins again if the
   * connection breaks off. Does not survive a reload.
   */
  uploadFile(file: FileSource, options?: UploadOptions): Upload;
  createUploads(): UploadList;
  /**
   * The request that reads a file of this user's, with a token. The server never serves a file as a
   * page. Rejects with `RequestError`.
   */
  fileRequest(fileId: string): Promise<FileRequest>;
  /** The address of a file for a link, valid for a few minutes. Rejects with `RequestError`. */
  fileAddress(fileId: string): Promise<string>;
  clearError(): void;
}
