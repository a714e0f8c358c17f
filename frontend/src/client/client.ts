/**
 * The client as an application uses it.
 *
 *     const client = createClient({ url: "wss://host/ws", getToken }, browserPorts());
 *     client.connect();
 *     client.subscribe("partial_result", ({ payload }) => console.log(payload.content));
 *     await client.sendMessage({ type: "user_message", payload: { content: "hello" } });
 */

import type { Reply } from "../core/questions.js";
import { isEnd, type Snapshot } from "../core/snapshot.js";
import type { FileSource, Upload, UploadOptions } from "../core/uploads.js";
import type { FileRequest } from "../connection/files.js";
import { OpeningError } from "../connection/opening.js";
import { outgoingFault } from "../protocol/encode.js";
import type {
  ClientPayloads,
  ControlPayloads,
  ControlRequest,
  ErrorBody,
  Rating,
  RoomContent,
  RunRequest,
} from "../protocol/messages.js";
import type { Ports } from "../ports.js";
import {
  RequestError,
  type ClientOptions,
  type HistoryPage,
  type JoinOptions,
  type MessageBytes,
  type MessageOptions,
  type NetraClient,
  type OutgoingMessage,
  type Subscribe,
  type ThreadsPage,
  type UploadList,
  type WatchOptions,
} from "./api.js";
import { clientClosed, invalid } from "./errors.js";
import { Listeners } from "./listeners.js";
import { outgoing, sentAgain, type Outgoing } from "./outgoing.js";
import { Tab } from "./tab.js";
import { UploadListState } from "./upload-list.js";

const FIRST_WAIT = 1_000; // ms, the guide's `reconnectInterval`

export function createClient(options: ClientOptions, ports: Ports): NetraClient {
  return new Client(options, ports);
}

class Client implements NetraClient {
  readonly #ports: Ports;
  readonly #tab: Tab;
  readonly #listeners: Listeners;
  #isClosed = false;

  constructor(options: ClientOptions, ports: Ports) {
    this.#ports = ports;
    this.#listeners = new Listeners(ports.timers);
    this.subscribe = this.#listeners.add;
    this.#tab = new Tab(
      ports,
      {
        url: options.url,
        getToken: options.getToken ?? null,
        maxReconnectAttempts: options.maxReconnectAttempts ?? Infinity,
        reconnectInterval: options.reconnectInterval ?? FIRST_WAIT,
        threadId: options.threadId,
        isShared: options.shareAcrossTabs !== false,
      },
      {
        changed: () => this.#listeners.changed(),
        message: (message) => this.#listeners.message(message),
        loadThread: (threadId) => this.loadThread(threadId),
      },
    );
  }

  readonly getSnapshot = (): Snapshot => this.#tab.snapshot;

  readonly subscribe: Subscribe;

  connect(): void {
    if (!this.#isClosed) this.#tab.connect();
  }

  disconnect(): void {
    if (!this.#isClosed) this.#tab.disconnect();
  }

  forceReconnect(): void {
    if (!this.#isClosed) this.#tab.forceReconnect();
  }

  retryNow(): void {
    if (!this.#isClosed) this.#tab.commands.run("retryNow");
  }

  clearError(): void {
    if (!this.#isClosed) this.#tab.clearError();
  }

  close(): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    this.#tab.close();
    this.#listeners.clear();
  }

  checkMessage(message: OutgoingMessage): ErrorBody | null {
    const now = this.#ports.timers.now();
    if (this.#isClosed) return clientClosed(now);
    const made = this.#make(message);
    return made.fault === null ? this.#tab.transit.check(made.message, made.key) : invalid(now, made.fault);
  }

  sendMessage(outgoingMessage: OutgoingMessage): Promise<boolean> {
    if (this.#isClosed) return Promise.resolve(false);
    const made = this.#make(outgoingMessage);
    if (made.fault !== null) {
      this.#tab.reject(made.key, invalid(this.#ports.timers.now(), made.fault));
      return Promise.resolve(false);
    }
    const { key, message } = made;
    if (message.type === "answer") {
      const { question_id, ...reply } = message.payload;
      return this.#tab.answers.send(question_id, reply).then(
        () => true,
        () => false,
      );
    }
    if (message.type === "room_message") {
      return this.#publish(made).then(
        () => true,
        () => false,
      );
    }
    if (message.type === "user_message" || message.type === "agent_request") return this.#tab.submit({ key, message });
    return new Promise((resolve) => {
      this.#tab.ask(key, message as ControlRequest, {
        written: () => resolve(true),
        answered: ({ error }) => resolve(error === null),
      });
    });
  }

  sendOptimisticMessage(content: string, type = "user_message", options: MessageOptions = {}): string {
    const key = this.#ports.uniqueId();
    const payload = { thread_id: this.#tab.threads.current, ...options, content };
    this.#tab.show({ key, message: { type: "user_message", payload, correlation_id: key } }, content, type);
    return key;
  }

  discardMessage(correlationId: string): boolean {
    return this.#tab.discard(correlationId);
  }

  resend(correlationId: string): string | null {
    const old = this.#tab.message(correlationId);
    if (old?.role !== "user") return null;
    const { type, content } = old;
    if (type !== "user_message" && type !== "agent_request") return null;
    const again = sentAgain(old, this.#tab.bytes(correlationId));
    if (again === null) return null;
    const made = this.#make(again);
    if (made.fault !== null) return null;
    const { key } = made;
    this.#tab.show({ key, message: made.message as RunRequest }, content, type);
    void this.sendMessage({ ...again, correlation_id: key });
    return key;
  }

  stopRun(runId: string): Promise<boolean> {
    const run = this.#tab.run(runId);
    if (run !== undefined && isEnd(run.status)) return Promise.resolve(true);
    return this.#isClosed ? Promise.resolve(false) : this.#tab.stops.stop(runId);
  }

  answer(questionId: string, reply: Reply): Promise<string> {
    const now = this.#ports.timers.now();
    const fault = outgoingFault({ type: "answer", payload: { question_id: questionId, ...reply } });
    if (fault !== null) return Promise.reject(new RequestError(invalid(now, fault)));
    if (this.#isClosed) return Promise.reject(new RequestError(clientClosed(now)));
    return this.#tab.answers.send(questionId, reply);
  }

  loadThread(threadId: string, page: HistoryPage = {}): Promise<ControlPayloads["thread_history"]> {
    if (!this.#isClosed) this.#tab.threads.show(threadId);
    return this.#tab.calls.call("get_thread_history", { thread_id: threadId, ...page });
  }

  openThread(threadId: string): void {
    this.#tab.openThread(threadId);
  }

  watchThread(threadId: string, { owner }: WatchOptions = {}): () => void {
    if (this.#isClosed) return () => undefined;
    return this.#tab.rooms.join({ kind: "thread", thread_id: threadId, owner: owner ?? null });
  }

  joinRoom(room: string, { history = false }: JoinOptions = {}): () => void {
    if (this.#isClosed) return () => undefined;
    return this.#tab.rooms.join({ kind: "room", room, history });
  }

  publish(room: string, content: RoomContent, bytes: MessageBytes = {}): Promise<ControlPayloads["room_confirmed"]> {
    return this.#publish(this.#make({ type: "room_message", payload: { room, content }, ...bytes }));
  }

  fileBytes(fileId: string): ArrayBuffer | null {
    return this.#tab.bytes(fileId) ?? null;
  }

  getPresence(room: string): Promise<ControlPayloads["presence"]> {
    return this.#tab.calls.call("get_presence", { room });
  }

  followThreads(): () => void {
    return this.#isClosed ? () => undefined : this.#tab.list.follow();
  }

  async loadMoreThreads(): Promise<void> {
    const { threads, hasMore } = this.#tab.list.value;
    const before = threads.at(-1)?.thread_id;
    if (before === undefined || !hasMore) return;
    const { threads: older, has_more } = await this.listThreads({ before });
    this.#tab.list.add(older, has_more);
  }

  listThreads(page: ThreadsPage = {}): Promise<ControlPayloads["thread_list"]> {
    return this.#tab.calls.call("list_threads", page);
  }

  async renameThread(threadId: string, title: string): Promise<void> {
    await this.#tab.calls.call("rename_thread", { thread_id: threadId, title });
  }

  async markRead(threadId: string, messageId: string): Promise<void> {
    await this.#tab.calls.call("mark_read", { thread_id: threadId, message_id: messageId });
  }

  async deleteThread(threadId: string): Promise<void> {
    await this.#tab.calls.call("delete_thread", { thread_id: threadId });
  }

  async sendFeedback(messageId: string, rating: Rating | null, comment?: string): Promise<void> {
    const reason = comment === undefined ? {} : { comment };
    await this.#tab.calls.call("feedback", { message_id: messageId, rating, ...reason });
  }

  uploadFile(file: FileSource, options?: UploadOptions): Upload {
    return this.#tab.uploads.start(file, options);
  }

  createUploads(): UploadList {
    return new UploadListState(this.#ports, this.#tab.uploads);
  }

  fileRequest(fileId: string): Promise<FileRequest> {
    return refused(this.#tab.uploads.endpoints.readRequest(fileId));
  }

  fileAddress(fileId: string): Promise<string> {
    return refused(this.#tab.uploads.endpoints.address(fileId));
  }

  #publish(made: Outgoing): Promise<ControlPayloads["room_confirmed"]> {
    const { fault, key } = made;
    if (fault !== null) return Promise.reject(new RequestError(invalid(this.#ports.timers.now(), fault)));
    const { payload, data } = made.message;
    // Bytes are held in memory until they are sent.
    const error = data === undefined ? null : this.#tab.transit.check(made.message, key);
    if (error !== null) return Promise.reject(new RequestError(error));
    return this.#tab.calls.publish(payload as ClientPayloads["room_message"], key, data);
  }

  #make(message: OutgoingMessage): Outgoing {
    return outgoing(message, this.#tab.threads.current, () => this.#ports.uniqueId());
  }
}

/** A request that the server has refused, as applications see it. */
const refused = <T>(asked: Promise<T>): Promise<T> =>
  asked.catch((error: unknown) => {
    throw error instanceof OpeningError ? new RequestError(error.body) : error;
  });
