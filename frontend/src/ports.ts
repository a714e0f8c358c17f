/**
 * What the core needs from its surroundings, handed in: the core itself has no DOM, no timers, no
 * clock and no chance. `browserPorts()` has what a page has; a test hands in fakes.
 */

export type Cancel = () => void;

/** A handler that may ask for more of its event than is promised here, as the browser's types do. */
type On<E> = { on(event: E): void }["on"] | null;

/** The part of a WebSocket that is used; the browser's class and that of `ws` both fit. */
export interface Socket {
  readonly protocol: string;
  /** 1 while it is open. */
  readonly readyState: number;
  onopen: On<unknown>;
  onmessage: On<{ readonly data: unknown }>;
  onclose: On<{ readonly code: number }>;
  onerror: On<unknown>;
  send(data: string): void;
  close(code?: number, reason?: string): void;
}
export type SocketClass = new (url: string, protocols?: string[]) => Socket;

export interface HttpRequest {
  readonly method: "GET" | "POST";
  readonly url: string;
  readonly headers: Readonly<Record<string, string>>;
  /** After so many milliseconds there is no answer. */
  readonly timeout_ms: number;
}
export interface HttpAnswer {
  readonly status: number;
  readonly body: string;
  readonly retryAfter: string | null;
}

export interface Storage {
  get(name: string): string | null;
  /** Throws where there is no room. */
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

/** One holder of each name among all tabs. */
export interface Locks {
  /**
   * Waits for the lock, calls `granted`, and holds the lock until the returned function is called.
   * Called before that, it gives up waiting. `lost` is called where another tab took it away.
   */
  request(name: string, granted: () => void, lost: () => void): Cancel;
  /** The same without waiting: takes it away from whoever has it. */
  steal(name: string, granted: () => void, lost: () => void): Cancel;
}

export type PageEvent = "online" | "visible" | "hide" | "show";

export interface Ports {
  readonly WebSocket: SocketClass;
  /** Rejects where there is no HTTP answer. */
  http(request: HttpRequest): Promise<HttpAnswer>;
  readonly timers: Timers;
  /** From 0 up to, not including, 1; for spreading retries. */
  random(): number;
  /** A new name that nobody can guess or meet again. */
  uniqueId(): string;
  /** Shared by all tabs of the origin: the session and the outbox of the tab that holds the lock. */
  readonly shared: Storage;
  /** This tab's own, and kept over its reload. */
  readonly tab: Storage;
  /** The page came online, came to the front, or is going away. */
  onPage(event: PageEvent, run: () => void): Cancel;
  /** The absolute form of an address, as seen from `base`; from the page where that is left out. */
  resolve(address: string, base?: string): string;
  /** Missing where the browser lacks it: then each tab is on its own. */
  readonly locks?: Locks;
  readonly openChannel?: (name: string, onMessage: (message: unknown) => void) => Channel;
}
