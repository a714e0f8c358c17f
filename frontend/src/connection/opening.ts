/**
 * The steps before the socket: discovery, a token, a ticket. A rejection states its reason here,
 * with code and help, which a browser does not report for a failed upgrade.
 */

import { asHttpAddress, asWebSocketAddress, discoveryAddress, readConfig, type ServerConfig } from "../protocol/discovery.js";
import { isObject } from "../protocol/check.js";
import { errorBody } from "../protocol/shapes.js";
import { SUBPROTOCOL, SUBPROTOCOL_2, type ErrorBody } from "../protocol/messages.js";
import { toBase64Url } from "../core/names.js";
import { afterStatus, localError, retryAfterMs } from "../core/retry-rules.js";
import type { HttpAnswer, HttpRequest, Ports, Refusal, Socket } from "../ports.js";
import type { Position } from "../store/session-store.js";

export const ANSWER_WITHIN = 15_000; // ms for each step: a proxy gives up later than that

/** The steps before the socket failed. */
export class OpeningError extends Error implements Refusal {
  constructor(
    readonly body: ErrorBody,
    /** Whether to try again automatically. */
    readonly isRetryable: boolean,
    /** Milliseconds to wait at least before that. */
    readonly retryAfter = 0,
  ) {
    super(body.error);
  }
}

export type GetToken = () => Promise<string> | string;

/** The address of the discovery document, which also names the server in storage. */
export const serverAddress = (ports: Ports, url: string | undefined): string =>
  discoveryAddress(ports.resolve(url ?? "/ws"));

export async function discover(ports: Ports, address: string): Promise<ServerConfig> {
  const answer = await ask(ports, { method: "GET", url: address, headers: {}, timeout_ms: ANSWER_WITHIN });
  if (answer.status !== 200) throw rejected(ports, answer);
  const config = readConfig(answer.body);
  if (typeof config !== "string") return config;
  const now = ports.timers.now();
  const help = "Check that the address is that of a netra_trio server.";
  throw new OpeningError(localError(now, "DISCOVERY_FAILED", `${address}: ${config}`, help, false), false);
}

/** The application's token. A failure is an `OpeningError` that is retried. */
export async function obtainToken(now: () => number, getToken: GetToken): Promise<string> {
  const fail = (error: string): OpeningError => {
    const help = "Log in again if the error persists.";
    return new OpeningError(localError(now(), "TOKEN_UNAVAILABLE", error, help), true);
  };
  let token: unknown;
  try {
    token = await getToken();
  } catch {
    // The exception's text is not shown: it may quote the answer of a login server.
    throw fail("The application could not get a token.");
  }
  if (typeof token !== "string" || token === "") throw fail("The application has no token.");
  return token;
}

export interface Address {
  readonly url: string;
  readonly protocols: string[];
  /** Whether the credential is a ticket in the address. */
  readonly hasTicket: boolean;
}

/** Where connections without a WebSocket receive and send, without a query. */
export interface EventsEndpoints {
  readonly stream: string;
  readonly messages: string;
}

/** The endpoints of the server's `events` door; null if the server, or the page, has no such way. */
export function eventsEndpoints(ports: Ports, server: string, config: ServerConfig): EventsEndpoints | null {
  const { stream, messages } = config.doors?.["events"] ?? {};
  if (ports.stream === undefined || stream === undefined || messages === undefined) return null;
  return { stream: ports.resolve(stream, server), messages: ports.resolve(messages, server) };
}

/**
 * The address of the socket, with the credentials. The token itself is never a part of an address.
 *
 * @param socket Without credentials; null: that of the WebSocket.
 * @param freshToken Called once if the server rejects the token: it may have expired meanwhile.
 * @param readPosition Called last: events may arrive on another socket meanwhile.
 */
export async function socketAddress(
  ports: Ports,
  server: string,
  config: ServerConfig,
  socket: string | null,
  token: string | null,
  freshToken: () => Promise<string>,
  readPosition: () => Position | null,
): Promise<Address> {
  const endpoint = (name: string): string | null => {
    const address = config.endpoints[name];
    return address === undefined ? null : ports.resolve(asHttpAddress(address), server);
  };
  const query: string[] = [];
  const protocols = [SUBPROTOCOL_2, SUBPROTOCOL];
  const ticketAddress = config.features.tickets ? endpoint("ticket") : null;
  const hasTicket = token !== null && ticketAddress !== null;
  if (hasTicket) {
    query.push(`ticket=${encodeURIComponent(await obtainTicket(ports, ticketAddress, token, freshToken))}`);
  } else if (token !== null) {
    protocols.push(`jwt.${toBase64Url(token)}`);
  }
  const position = readPosition();
  if (position !== null) {
    query.push(`session_id=${encodeURIComponent(position.session)}`, `last_seq=${position.last}`);
  }
  const address = socket ?? asWebSocketAddress(endpoint("websocket") ?? server);
  return { url: query.length > 0 ? `${address}?${query.join("&")}` : address, protocols, hasTicket };
}

/** Begins to open a socket. */
export function openSocket(ports: Ports, { url, protocols }: Address): Socket {
  try {
    return new ports.WebSocket(url, protocols);
  } catch {
    const help = "Check the address; a page loaded by https can only use wss.";
    const error = "The browser refused to open the connection.";
    throw new OpeningError(localError(ports.timers.now(), "BAD_ADDRESS", error, help, false), false);
  }
}

async function obtainTicket(
  ports: Ports,
  url: string,
  token: string,
  freshToken: () => Promise<string>,
): Promise<string> {
  let answer = await askTicket(ports, url, token);
  if (afterStatus(answer.status) === "fresh") answer = await askTicket(ports, url, await freshToken());
  if (answer.status !== 200) throw rejected(ports, answer);
  const body = parse(answer.body);
  const ticket = isObject(body) ? body["ticket"] : null;
  if (typeof ticket === "string" && ticket !== "") return ticket;
  const help = "Check the proxies between this page and the server.";
  throw new OpeningError(localError(ports.timers.now(), "BAD_ANSWER", "The server sent no ticket.", help), true);
}

const askTicket = (ports: Ports, url: string, token: string): Promise<HttpAnswer> =>
  ask(ports, {
    method: "POST",
    url,
    headers: { Authorization: `Bearer ${token}` },
    timeout_ms: ANSWER_WITHIN,
  });

export async function ask(ports: Ports, request: HttpRequest): Promise<HttpAnswer> {
  try {
    return await ports.http(request);
  } catch {
    // A browser reports a refused origin in the same way as a network without an answer.
    const help = "Check the network. If it works, ask the administrator whether this page may connect.";
    throw new OpeningError(localError(ports.timers.now(), "NO_ANSWER", "The server did not answer.", help), true);
  }
}

export function rejected(ports: Ports, answer: HttpAnswer): OpeningError {
  const now = ports.timers.now();
  const isRetryable = afterStatus(answer.status) === "retry";
  const help = isRetryable ? "Nothing to do: the client tries again." : "Check the address and the server.";
  const body =
    problemIn(answer.body) ??
    localError(now, `HTTP_${answer.status}`, `The server answered ${answer.status}.`, help, isRetryable);
  const retryAfter = Math.max(retryAfterMs(answer.retryAfter, now), body.retry_after_ms ?? 0);
  return new OpeningError(body, isRetryable, retryAfter);
}

/** The server's own reason for an answer; null if the answer may be that of a proxy. */
export const refusalIn = (ports: Ports, answer: HttpAnswer): OpeningError | null =>
  problemIn(answer.body) === null ? null : rejected(ports, answer);

/** The error in an answer: its fields are at the top level, or in the payload of a frame. */
export function problemIn(text: string): ErrorBody | null {
  const value = parse(text);
  const candidates = isObject(value) ? [value["payload"], value] : [];
  const found = candidates.find((candidate) => errorBody(candidate, "$") === null);
  if (found === undefined) return null;
  const { code, error, timestamp, recoverable, help, retry_after_ms, error_id } = found as ErrorBody;
  return {
    code,
    error,
    timestamp,
    recoverable,
    help,
    ...(retry_after_ms === undefined ? {} : { retry_after_ms }),
    ...(error_id === undefined ? {} : { error_id }),
  };
}

export function parse(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}
