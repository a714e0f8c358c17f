/** What an application gets: the client's methods and what they take. */

import type {
  ControlPayloads,
  ErrorBody,
  ServerMessage,
  ServerMessageOf,
  ServerType,
} from "../protocol/messages.js";
import type { Snapshot } from "../core/snapshot.js";

export interface ClientOptions {
  /** The server: `https://host`, `wss://host/ws`, or a path; the page's own `/ws` without it. */
  readonly url?: string | undefined;
  /** A token of the user that is still good; asked for at every opening and renewal. */
  readonly getToken?: (() => Promise<string> | string) | undefined;
  /** Attempts in a row without progress; for ever without it. */
  readonly maxReconnectAttempts?: number | undefined;
  /** Milliseconds; the first wait is up to so long, each next one up to twice as long, to 30 s. */
  readonly reconnectInterval?: number | undefined;
  /** The conversation of this tab; without it the tab makes one and keeps it over a reload. */
  readonly threadId?: string | undefined;
  /** False: this tab has a socket and a session of its own. */
  readonly shareAcrossTabs?: boolean | undefined;
}

/** Anything with `type` and `payload`, as in the guide. */
export interface OutgoingMessage {
  readonly type: string;
  readonly payload?: Readonly<Record<string, unknown>> | undefined;
  readonly correlation_id?: string | undefined;
}

export type Handler<M> = (message: M) => void;

/** The server answered a request with an error, or the client was closed before it answered. */
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

export interface NetraClient {
  /** Begins; harmless where it has begun. */
  connect(): void;
  /** Lets go of the connection on purpose; `connect` begins again, and resumes. */
  disconnect(): void;
  /** Ends the client for good: nothing of it runs afterwards. What is unsent stays stored. */
  close(): void;
  /** Tries now, whatever the state. */
  forceReconnect(): void;
  /** The state: the same value until something changes. May be passed on as it is. */
  readonly getSnapshot: () => Snapshot;
  readonly subscribe: Subscribe;
  /**
   * True once the server has confirmed it (types without a confirmation: once written); false when
   * it was refused. While offline it waits, and a reload does not lose it.
   */
  sendMessage(message: OutgoingMessage): Promise<boolean>;
  /** Shows a message at once and returns its correlation id; `sendMessage` sends it. */
  sendOptimisticMessage(content: string, type?: string): string;
  /** Shows and sends again, under a new key, what failed or was interrupted. Returns the key. */
  resend(correlationId: string): string | null;
  /** True once the run has ended; false where the server refused to stop it. */
  stopRun(runId: string): Promise<boolean>;
  /**
   * Reads a page of a thread's history and shows it. Rejects with `RequestError`.
   */
  loadThread(
    threadId: string,
    page?: { readonly limit?: number; readonly before?: string },
  ): Promise<ControlPayloads["thread_history"]>;
  /** Goes to another conversation: new messages belong to it. */
  openThread(threadId: string): void;
  clearError(): void;
}
