/**
 * The provider: gives a client that lives outside React to the components below it.
 *
 * Effects only count whether the client is in use. A client that React creates and discards, as in
 * StrictMode, has done nothing yet; a client that is no longer used keeps its connection for a
 * moment, so that a remount continues with it.
 */

import { createElement, useEffect, useState, type ReactNode } from "react";
import { browserPorts } from "../browser.js";
import type { ClientOptions, NetraClient } from "../client/api.js";
import { createClient } from "../client/client.js";
import type { Ports } from "../ports.js";
import { createHandle, HandleContext, type ClientHandle } from "./context.js";

const LINGER = 1_000; // ms: StrictMode, hot reload and navigation remount within that

export interface EnhancedWebSocketProviderProps {
  /** The server: `https://host`, `wss://host/ws`, or a path; the page's own `/ws` without it. */
  readonly url?: string | undefined;
  /** Returns a valid token of the user. A new function is used without a new connection. */
  readonly getToken?: ClientOptions["getToken"];
  /** If false, the client connects only at `forceReconnect()`. */
  readonly autoConnect?: boolean | undefined;
  readonly maxReconnectAttempts?: number | undefined;
  /** Milliseconds. */
  readonly reconnectInterval?: number | undefined;
  /** The thread of this tab; another one is opened without a new connection. */
  readonly threadId?: string | undefined;
  readonly shareAcrossTabs?: boolean | undefined;
  /** The parts of the browser that the client uses; for tests, and outside of a browser. */
  readonly ports?: Ports | undefined;
  readonly children?: ReactNode;
}

/** A client with the options that it was created with. */
interface Held extends ClientHandle {
  readonly key: string;
  readonly tokens: LatestToken;
}

/** The application's latest `getToken`, so that a new function needs no new connection. */
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
    return { key, tokens, ...createHandle(client, threadId) };
  };
  const [held, setHeld] = useState(hold);
  const current = held.key === key ? held : hold();
  if (current !== held) setHeld(current);
  const { client, tokens } = current;

  useEffect(() => tokens.use(getToken), [tokens, getToken]);

  useEffect(() => {
    const release = retain(client);
    if (autoConnect) client.connect();
    return release;
  }, [client, autoConnect]);

  useEffect(() => {
    if (threadId !== undefined && client.getSnapshot().threadId !== threadId) client.openThread(threadId);
  }, [client, threadId]);

  return createElement(HandleContext.Provider, { value: current }, children);
}

/** Timers that disconnect clients that are no longer used. */
const disconnecting = new WeakMap<NetraClient, ReturnType<typeof setTimeout>>();

/** Marks a client as used; the returned function ends that. */
function retain(client: NetraClient): () => void {
  clearTimeout(disconnecting.get(client));
  disconnecting.delete(client);
  return () => {
    const timer = setTimeout(() => {
      disconnecting.delete(client);
      client.disconnect();
    }, LINGER);
    disconnecting.set(client, timer);
  };
}
