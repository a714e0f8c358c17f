/**
 * The binding: React subscribes to a client that lives outside of it.
 *
 * No effect decides anything about the connection but that somebody is there. A client that React
 * makes and throws away (StrictMode renders twice) has done nothing yet, and one whose component
 * goes waits a moment before it lets go, so that a remount finds its connection as it was.
 */

import {
  createContext,
  createElement,
  useContext,
  useEffect,
  useMemo,
  useState,
  useSyncExternalStore,
  type ReactNode,
} from "react";
import type { ClientOptions, NetraClient } from "../client/api.js";
import { browserPorts } from "../browser.js";
import { createClient } from "../client/client.js";
import type { Ports } from "../ports.js";
import type { Snapshot } from "../core/snapshot.js";

export const LINGER = 1_000; // ms: StrictMode, hot reload and a change of page remount within that

export interface EnhancedWebSocketProviderProps {
  /** The server: `https://host`, `wss://host/ws`, or a path; the page's own `/ws` without it. */
  readonly url?: string | undefined;
  /** A token of the user that is still good. A new function is used without a new connection. */
  readonly getToken?: ClientOptions["getToken"];
  /** False: nothing happens before `forceReconnect()`. */
  readonly autoConnect?: boolean | undefined;
  readonly maxReconnectAttempts?: number | undefined;
  /** Milliseconds. */
  readonly reconnectInterval?: number | undefined;
  /** The conversation of this tab; another one is opened without a new connection. */
  readonly threadId?: string | undefined;
  readonly shareAcrossTabs?: boolean | undefined;
  /** What the client has of a browser; for tests, and where there is none. */
  readonly ports?: Ports | undefined;
  readonly children?: ReactNode;
}

type Methods = Pick<
  NetraClient,
  | "sendMessage"
  | "sendOptimisticMessage"
  | "subscribe"
  | "resend"
  | "stopRun"
  | "loadThread"
  | "openThread"
  | "clearError"
  | "forceReconnect"
  | "disconnect"
>;

/** The state of the connection and what one can do with it. The functions never change. */
export type EnhancedWebSocket = Snapshot & Methods;

interface Held {
  readonly key: string;
  readonly client: NetraClient;
  readonly tokens: LatestToken;
  readonly methods: Methods;
}

/** The application's newest function, so that a new one needs no new connection. */
class LatestToken {
  #getToken: ClientOptions["getToken"];

  constructor(getToken: ClientOptions["getToken"]) {
    this.#getToken = getToken;
  }

  use(getToken: ClientOptions["getToken"]): void {
    this.#getToken = getToken;
  }

  get(): Promise<string> | string {
    return this.#getToken?.() ?? "";
  }
}

const Context = createContext<Held | null>(null);

export function EnhancedWebSocketProvider(props: EnhancedWebSocketProviderProps): ReactNode {
  const { url, getToken, autoConnect = true, maxReconnectAttempts, reconnectInterval } = props;
  const { threadId, shareAcrossTabs, ports, children } = props;
  const key = JSON.stringify([
    url ?? null,
    getToken === undefined,
    maxReconnectAttempts ?? null,
    reconnectInterval ?? null,
    shareAcrossTabs ?? true,
  ]);
  const hold = (): Held => {
    const options: ClientOptions = {
      url,
      maxReconnectAttempts,
      reconnectInterval,
      threadId,
      shareAcrossTabs,
    };
    const tokens = new LatestToken(getToken);
    const asks = getToken && { getToken: () => tokens.get() };
    const client = createClient({ ...options, ...asks }, ports ?? browserPorts());
    return { key, client, tokens, methods: methodsOf(client) };
  };
  const [held, setHeld] = useState(hold);
  const current = held.key === key ? held : hold();
  if (current !== held) setHeld(current);
  const { client, tokens } = current;

  useEffect(() => tokens.use(getToken), [tokens, getToken]);

  useEffect(() => {
    const leave = occupy(client);
    if (autoConnect) client.connect();
    return leave;
  }, [client, autoConnect]);

  useEffect(() => {
    if (threadId !== undefined && client.getSnapshot().threadId !== threadId) client.openThread(threadId);
  }, [client, threadId]);

  return createElement(Context.Provider, { value: current }, children);
}

/** The client itself, for what the hook below does not give. */
export function useNetraClient(): NetraClient {
  return useHeld().client;
}

export function useEnhancedWebSocket(): EnhancedWebSocket {
  const { client, methods } = useHeld();
  const snapshot = useSyncExternalStore<Snapshot>(
    client.subscribe,
    client.getSnapshot,
    client.getSnapshot,
  );
  return useMemo(() => ({ ...snapshot, ...methods }), [snapshot, methods]);
}

function useHeld(): Held {
  const held = useContext(Context);
  if (held !== null) return held;
  throw new Error("useEnhancedWebSocket: put <EnhancedWebSocketProvider> around this component");
}

/** Timers that let go of a client that nobody occupies. */
const leaving = new WeakMap<NetraClient, ReturnType<typeof setTimeout>>();

function occupy(client: NetraClient): () => void {
  clearTimeout(leaving.get(client));
  leaving.delete(client);
  return () => {
    const timer = setTimeout(() => {
      leaving.delete(client);
      client.disconnect();
    }, LINGER);
    leaving.set(client, timer);
  };
}

const methodsOf = (client: NetraClient): Methods => ({
  sendMessage: (message) => client.sendMessage(message),
  sendOptimisticMessage: (content, type) => client.sendOptimisticMessage(content, type),
  subscribe: client.subscribe,
  resend: (correlationId) => client.resend(correlationId),
  stopRun: (runId) => client.stopRun(runId),
  loadThread: (threadId, page) => client.loadThread(threadId, page),
  openThread: (threadId) => client.openThread(threadId),
  clearError: () => client.clearError(),
  forceReconnect: () => client.forceReconnect(),
  disconnect: () => client.disconnect(),
});
