/**
 * What comes before the socket: discovery, a token, a ticket. A refusal says here why, with code
 * and help, which a browser never tells of a failed upgrade.
 */

import { asHttpAddress, asWebSocketAddress, discoveryAddress, readConfig } from "../protocol/discovery.js";
import { isObject } from "../protocol/check.js";
import { errorBody } from "../protocol/decode.js";
import { SUBPROTOCOL, type ErrorBody } from "../protocol/messages.js";
import type { HttpAnswer, HttpRequest, Ports } from "../ports.js";
import { toBase64Url } from "../core/names.js";
import { afterStatus, localError, retryAfterMs } from "../core/retry-rules.js";
import type { ServerConfig } from "../core/snapshot.js";
import type { Position } from "../store/session-store.js";

export const ANSWER_WITHIN = 15_000; // ms for each step of an opening: a proxy gives up later than that

/** An opening that did not come to a socket. */
export class Refusal extends Error {
  constructor(
    readonly body: ErrorBody,
    /** Whether to try again by itself. */
    readonly again: boolean,
    /** Not before so many ms. */
    readonly wait = 0,
  ) {
    super(body.error);
  }
}

export interface Credential {
  readonly token: string;
}

/** The address of the discovery document, which also names the server in storage. */
export const serverAddress = (ports: Ports, url: string | undefined): string =>
  discoveryAddress(ports.resolve(url ?? "/ws"));

export async function discover(ports: Ports, address: string): Promise<ServerConfig> {
  const answer = await ask(ports, { method: "GET", url: address, headers: {}, timeout_ms: ANSWER_WITHIN });
  if (answer.status !== 200) throw refused(ports, answer);
  const config = readConfig(answer.body);
  if (typeof config !== "string") return config;
  const now = ports.timers.now();
  const help = "Check that the address is that of a netra_trio server.";
  throw new Refusal(localError(now, "DISCOVERY_FAILED", `${address}: ${config}`, help, false), false);
}

/** The application's token; its failure is a refusal that is tried again. */
export async function obtainToken(
  ports: Ports,
  getToken: () => Promise<string> | string,
): Promise<string> {
  const fail = (error: string): Refusal => {
    const help = "Log in again if this does not mend itself.";
    return new Refusal(localError(ports.timers.now(), "TOKEN_UNAVAILABLE", error, help), true);
  };
  let token: unknown;
  try {
    token = await getToken();
  } catch {
    // Not the exception's text: it may quote what the login server said.
    throw fail("The application could not get a token.");
  }
  if (typeof token !== "string" || token === "") throw fail("The application has no token.");
  return token;
}

export interface Address {
  readonly url: string;
  readonly protocols: string[];
}

/** Where to open the socket, and as whom. The token itself never stands in an address. */
export async function socketAddress(
  ports: Ports,
  server: string,
  config: ServerConfig,
  token: string | null,
  again: () => Promise<string>,
  position: Position | null,
): Promise<Address> {
  const endpoint = (name: string): string | null => {
    const address = config.endpoints[name];
    return address === undefined ? null : ports.resolve(asHttpAddress(address), server);
  };
  const query: string[] = [];
  const protocols = [SUBPROTOCOL];
  const ticketAt = config.features.tickets ? endpoint("ticket") : null;
  if (token !== null && ticketAt !== null) {
    query.push(`ticket=${encodeURIComponent(await ticket(ports, ticketAt, token, again))}`);
  } else if (token !== null) {
    protocols.push(`jwt.${toBase64Url(token)}`);
  }
  if (position !== null) {
    query.push(`session_id=${encodeURIComponent(position.session)}`, `last_seq=${position.last}`);
  }
  const socket = asWebSocketAddress(endpoint("websocket") ?? server);
  return { url: query.length > 0 ? `${socket}?${query.join("&")}` : socket, protocols };
}

async function ticket(
  ports: Ports,
  url: string,
  token: string,
  again: () => Promise<string>,
): Promise<string> {
  let answer = await askTicket(ports, url, token);
  // Once, with a new token: the old one may have ended in the meantime.
  if (afterStatus(answer.status) === "fresh") answer = await askTicket(ports, url, await again());
  if (answer.status !== 200) throw refused(ports, answer);
  const body = parse(answer.body);
  const value = isObject(body) ? body["ticket"] : null;
  if (typeof value === "string" && value !== "") return value;
  const help = "Check what stands between this page and the server.";
  throw new Refusal(localError(ports.timers.now(), "BAD_ANSWER", "The server gave no ticket.", help), true);
}

const askTicket = (ports: Ports, url: string, token: string): Promise<HttpAnswer> =>
  ask(ports, {
    method: "POST",
    url,
    headers: { Authorization: `Bearer ${token}` },
    timeout_ms: ANSWER_WITHIN,
  });

async function ask(ports: Ports, request: HttpRequest): Promise<HttpAnswer> {
  try {
    return await ports.http(request);
  } catch {
    const help = "Check the network; and, from a page of another origin, WEBSOCKET_ALLOWED_ORIGINS.";
    throw new Refusal(localError(ports.timers.now(), "NO_ANSWER", "The server did not answer.", help), true);
  }
}

function refused(ports: Ports, answer: HttpAnswer): Refusal {
  const now = ports.timers.now();
  const again = afterStatus(answer.status) === "retry";
  const told = problemIn(answer.body);
  const help = again ? "Nothing to do: the client tries again." : "Check the address and the server.";
  const body =
    told ?? localError(now, `HTTP_${answer.status}`, `The server answered ${answer.status}.`, help, again);
  const asked = Math.max(retryAfterMs(answer.retryAfter, now), body.retry_after_ms ?? 0);
  return new Refusal(body, again, asked);
}

/** An error has its fields at the top, or in the payload of a frame. */
function problemIn(text: string): ErrorBody | null {
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

function parse(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}
