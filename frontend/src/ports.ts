/**
 * The interfaces through which the core uses its environment: sockets, HTTP, timers, randomness,
 * storage, page events, locks and channels. `browserPorts()` implements them in a page; tests pass
 * their own.
 */

import type { FileSource } from "./core/uploads.js";
import type { ErrorBody } from "./protocol/messages.js";

export type Cancel = () => void;

/** A handler whose event may have more fields than listed here, as the browser's types do. */
type On<E> = { on(event: E): void }["on"] | null;

/** The part of a WebSocket that the core uses; the classes of browsers and of `ws` both fit. */
export interface Socket {
  readonly protocol: string;
  /** Set to `arraybuffer`: the form of the data of binary frames. */
  binaryType?: string;
  /** 1 while the socket is open. */
  readonly readyState: number;
  onopen: On<unknown>;
  onmessage: On<{ readonly data: unknown }>;
  onclose: On<{ readonly code: number; readonly refusal?: Refusal }>;
  onerror: On<unknown>;
  send(data: string | ArrayBuffer): void;
  close(code?: number, reason?: string): void;
  /** Asks for no more frames until `resume`, if each has to be asked for. */
  pause?(): void;
  resume?(): void;
}
/** The server's reason not to open a connection; a WebSocket of a browser knows none. */
export interface Refusal {
  readonly body: ErrorBody;
  /** Whether to try again automatically. */
  readonly isRetryable: boolean;
  /** Milliseconds to wait at least before that. */
  readonly retryAfter: number;
}
export type SocketClass = new (url: string, protocols?: string[]) => Socket;

export interface HttpRequest {
  readonly method: "GET" | "POST";
  readonly url: string;
  readonly headers: Readonly<Record<string, string>>;
  readonly body?: string;
  /** Milliseconds after which the request fails. */
  readonly timeout_ms: number;
}
export interface HttpAnswer {
  readonly status: number;
  readonly body: string;
  readonly retryAfter: string | null;
}

/** A request that can be ended; a `text/event-stream` is read piece by piece, as it arrives. */
export interface StreamRequest {
  readonly method: "GET" | "POST";
  readonly url: string;
  readonly headers: Readonly<Record<string, string>>;
  readonly body?: string;
}
export interface StreamEvents {
  /** The answer begins. */
  head(status: number, contentType: string, retryAfter: string | null): void;
  /** The next piece of its text; no character is split. */
  text(piece: string): void;
  /** Nothing more follows. `isComplete`: there was an answer, and its body was not cut. */
  ended(isComplete: boolean): void;
}

/** A file as the body of a `POST`. */
export interface UploadRequest {
  readonly url: string;
  readonly headers: Readonly<Record<string, string>>;
  readonly file: FileSource;
}
export interface UploadEvents {
  /** The number of bytes that were sent so far. */
  progress(sent: number): void;
  /** Null: there was no answer. */
  ended(answer: HttpAnswer | null): void;
  /** The file was changed or removed since it was chosen. */
  unreadable(): void;
}

export interface Storage {
  get(name: string): string | null;
  /** Throws if there is no room. */
  set(name: string, value: string): void;
  remove(name: string): void;
}

export interface Timers {
  /** Milliseconds since 1970. */
  now(): number;
  setTimeout(run: () => void, ms: number): Cancel;
}

export interface Channel {
  post(message: unknown): void;
  close(): void;
}

/** Locks by name: one tab holds each at a time. */
export interface Locks {
  /**
   * Waits for the lock, calls `granted`, and holds the lock until the returned function is called.
   * Called earlier, that function ends the wait. `lost` is called if another tab steals the lock.
   */
  request(name: string, granted: () => void, lost: () => void): Cancel;
  /** Takes the lock at once, from the tab that holds it. */
  steal(name: string, granted: () => void, lost: () => void): Cancel;
}

export type PageEvent = "online" | "visible" | "hide" | "show";

export interface Ports {
  readonly WebSocket: SocketClass;
  /** Rejects if there is no HTTP answer. */
  http(request: HttpRequest): Promise<HttpAnswer>;
  /**
   * For connections without a WebSocket; absent: there are none. Reports to `events` after it has
   * returned, and nothing more after the returned function was called, which ends the request.
   */
  readonly stream?: (request: StreamRequest, events: StreamEvents) => Cancel;
  /**
   * For uploads; absent: there are none. Reports to `events` after it has returned, and nothing more
   * after the returned function was called, which ends the request.
   */
  readonly upload?: (request: UploadRequest, events: UploadEvents) => Cancel;
  readonly timers: Timers;
  /** A number from 0 up to, not including, 1, for the jitter of retries. */
  random(): number;
  /** A new id that is unique and cannot be guessed. */
  uniqueId(): string;
  /** Storage of all tabs of the origin, for the session and the outbox of the tab that leads. */
  readonly shared: Storage;
  /** Storage of this tab, which survives a reload. */
  readonly tab: Storage;
  /** Calls back when the page comes online, becomes visible, is hidden or is shown again. */
  onPage(event: PageEvent, run: () => void): Cancel;
  /** The absolute form of an address, relative to `base`, or to the page. */
  resolve(address: string, base?: string): string;
  /** Absent if the browser lacks it: then each tab has a connection of its own. */
  readonly locks?: Locks;
  readonly openChannel?: (name: string, onMessage: (message: unknown) => void) => Channel;
}
