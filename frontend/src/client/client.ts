/**
 * The client as an application uses it.
 *
 *     const client = createClient({ url: "wss://host/ws", getToken }, browserPorts());
 *     client.connect();
 *     client.subscribe("partial_result", ({ payload }) => console.log(payload.content));
 *     await client.sendMessage({ type: "user_message", payload: { content: "hello" } });
 */

import type { OutboxMessage } from "../core/outbox.js";
import type { Reply } from "../core/questions.js";
import { isEnd, type Snapshot } from "../core/snapshot.js";
import { outgoingFault } from "../protocol/encode.js";
import type { ClientPayloads, ControlPayloads, ControlRequest, RunRequest } from "../protocol/messages.js";
import type { Ports } from "../ports.js";
import {
  RequestError,
  type ClientOptions,
  type HistoryPage,
  type NetraClient,
  type OutgoingMessage,
  type Subscribe,
} from "./api.js";
import { clientClosed, invalid } from "./errors.js";
import { Listeners } from "./listeners.js";
import { Tab } from "./tab.js";

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

  clearError(): void {
    if (!this.#isClosed) this.#tab.clearError();
  }

  close(): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    this.#tab.close();
    this.#listeners.clear();
  }

  sendMessage({ type, payload = {}, correlation_id }: OutgoingMessage): Promise<boolean> {
    if (this.#isClosed) return Promise.resolve(false);
    const { correlation_id: inside, ...rest } = payload;
    const startsRun = type === "user_message" || type === "agent_request";
    const key = correlation_id ?? (startsRun ? inside : undefined) ?? this.#ports.uniqueId();
    const message = {
      type,
      payload: startsRun ? { thread_id: this.#tab.threads.current, ...rest } : payload,
      correlation_id: key,
    };
    const isInternal = type === "ack" || type === "auth";
    const fault = isInternal ? `$.type: the client itself sends ${type}` : outgoingFault(message);
    if (fault !== null || typeof key !== "string") {
      const error = invalid(this.#ports.timers.now(), fault ?? "$.correlation_id: expected a string");
      this.#tab.reject(typeof key === "string" ? key : null, error);
      return Promise.resolve(false);
    }
    if (type === "answer") {
      const { question_id, ...reply } = payload as unknown as ClientPayloads["answer"];
      return this.#tab.answers.send(question_id, reply).then(
        () => true,
        () => false,
      );
    }
    if (startsRun) return this.#tab.submit({ key, message: message as unknown as RunRequest });
    return new Promise((resolve) => {
      this.#tab.ask(key, message as ControlRequest, {
        written: () => resolve(true),
        answered: ({ error }) => resolve(error === null),
      });
    });
  }

  sendOptimisticMessage(content: string, type = "user_message"): string {
    const key = this.#ports.uniqueId();
    const payload = { thread_id: this.#tab.threads.current, content };
    const message: OutboxMessage = { key, message: { type: "user_message", payload, correlation_id: key } };
    this.#tab.show(message, content, type);
    return key;
  }

  resend(correlationId: string): string | null {
    const old = this.#tab.message(correlationId);
    if (old?.role !== "user") return null;
    const { type, payload, content } = old;
    if (type !== "user_message" && type !== "agent_request") return null;
    const key = this.#ports.uniqueId();
    const message = { type, payload, correlation_id: key };
    if (outgoingFault(message) !== null) return null;
    this.#tab.show({ key, message: message as unknown as RunRequest }, content, type);
    void this.sendMessage(message);
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
    const id = this.#ports.uniqueId();
    const payload = { thread_id: threadId, ...page };
    const message = { type: "get_thread_history", payload, correlation_id: id } as const;
    const fault = outgoingFault(message);
    const now = this.#ports.timers.now();
    if (fault !== null) return Promise.reject(new RequestError(invalid(now, fault)));
    if (this.#isClosed) return Promise.reject(new RequestError(clientClosed(now)));
    this.#tab.threads.show(threadId);
    return new Promise((resolve, reject) => {
      this.#tab.ask(id, message, {
        written: () => undefined,
        answered: (answer) => {
          if (answer.error !== null) reject(new RequestError(answer.error));
          else if (answer.message.type === "thread_history") resolve(answer.message.payload);
        },
      });
    });
  }

  openThread(threadId: string): void {
    this.#tab.openThread(threadId);
  }
}
