/** What to do after a close code, an HTTP status or an error code. No rule reads a reason's text. */

import type { ErrorBody } from "../protocol/messages.js";
import type { ConnectionState } from "./snapshot.js";

/**
 * `retry`: reconnect; `token`: reconnect with a new token; `stop`: only when the application asks;
 * `done`: the server closed normally.
 */
export type AfterClose = "retry" | "token" | "stop" | "done";

interface CloseKind {
  readonly after: AfterClose;
  readonly code: string;
  readonly error: string;
  readonly help: string;
}

export const TAKEN_OVER = 4409; // the close code: another socket resumed the session

const AUTOMATIC = "Nothing to do: the client reconnects automatically.";
const WHEN_ASKED = "Connect again to continue here.";

const CLOSES: Readonly<Record<number, CloseKind>> = {
  1000: { after: "done", code: "CLOSED", error: "The server closed the connection.", help: WHEN_ASKED },
  1001: { after: "retry", code: "SERVER_GOING_AWAY", error: "The server is going away.", help: AUTOMATIC },
  1006: { after: "retry", code: "CONNECTION_LOST", error: "The connection was lost.", help: AUTOMATIC },
  1009: { after: "stop", code: "MESSAGE_TOO_LARGE", error: "A message was far too large.", help: "Send a shorter message." },
  1011: { after: "retry", code: "INTERNAL_ERROR", error: "The server failed.", help: AUTOMATIC },
  1012: { after: "retry", code: "SERVER_RESTART", error: "The server restarts.", help: AUTOMATIC },
  4400: { after: "stop", code: "ERROR_LIMIT_EXCEEDED", error: "The server rejected too many frames.", help: "Reload the page to get its newest version." },
  4401: { after: "token", code: "TOKEN_EXPIRED", error: "The token has expired.", help: "Log in again if the error persists." },
  4403: { after: "stop", code: "USER_DISABLED", error: "The user is disabled or was removed.", help: "Ask an administrator." },
  4408: { after: "retry", code: "HEARTBEAT_MISSED", error: "The server received nothing from this page in time.", help: AUTOMATIC },
  4409: { after: "stop", code: "TAKEN_OVER", error: "The session continues in another window.", help: WHEN_ASKED },
  4429: { after: "stop", code: "CONNECTION_LIMIT_EXCEEDED", error: "The user has too many connections.", help: "Close a connection that is not needed, then connect again." },
};

export function closeKind(code: number): CloseKind {
  return (
    CLOSES[code] ?? { after: "stop", code: "CLOSED", error: `The connection was closed (${code}).`, help: WHEN_ASKED }
  );
}

/** The error that a close code stands for. `now` is in milliseconds. */
export function closeError(code: number, now: number): ErrorBody {
  const { code: name, error, help, after } = closeKind(code);
  return localError(now, name, error, help, after === "retry" || after === "token");
}

/** The error of a socket that did not open: a browser does not report why. */
export function notOpened(code: number, now: number): ErrorBody {
  if (code !== 1006) return closeError(code, now);
  const help = "Nothing to do: the client tries again. Too many open windows may be the cause.";
  return localError(now, "OPENING_FAILED", "The connection did not open.", help);
}

/** The error after the last attempt, whose own error was `last`. */
export function retriesExhausted(attempts: number, last: ErrorBody, now: number): ErrorBody {
  const error = `No connection after ${attempts} attempts. ${last.error}`;
  return localError(now, "RETRIES_EXHAUSTED", error, "Connect again when the server is back.");
}

/** `fresh`: once more, with a new token. */
export type AfterStatus = "retry" | "fresh" | "stop";

export function afterStatus(status: number): AfterStatus {
  if (status === 401) return "fresh";
  // A proxy answers 5xx while the server behind it restarts; 408 and 425 ask for a retry.
  if (status === 408 || status === 425 || status === 429 || status >= 500) return "retry";
  return "stop";
}

/** Error codes after which a message keeps its key and its place, and is sent again. */
export const SEND_AGAIN: ReadonlySet<string> = new Set([
  "RATE_LIMIT_EXCEEDED",
  "QUEUE_FULL",
  "SERVICE_UNAVAILABLE",
  "SERVER_DRAINING",
]);

/** Error codes after which a request that is not a message succeeds later on the same line. */
export const LATER: ReadonlySet<string> = new Set(["RATE_LIMIT_EXCEEDED", "SERVICE_UNAVAILABLE"]);

/** Whether the client stopped because the token was refused. */
export const isTokenRefused = ({ status, lastError }: ConnectionState): boolean =>
  status === "ERROR" && lastError !== null && TOKEN_REFUSED.has(lastError.code);

/** Error codes that another token of the same user may avoid. */
export const TOKEN_REFUSED: ReadonlySet<string> = new Set([
  "AUTH_REQUIRED",
  "INVALID_TOKEN",
  "TOKEN_EXPIRED",
]);

/** An error of the client's own, in the form of a server's error. `now` is in milliseconds. */
export function localError(
  now: number,
  code: string,
  error: string,
  help: string,
  recoverable = true,
): ErrorBody {
  return { code, error, help, recoverable, timestamp: now / 1000 };
}

/** Milliseconds that a `Retry-After` header asks for, given as seconds or as a date. */
export function retryAfterMs(header: string | null, now: number): number {
  if (header === null) return 0;
  const seconds = Number(header);
  const ms = Number.isNaN(seconds) ? Date.parse(header) - now : seconds * 1000;
  return Number.isFinite(ms) ? Math.max(0, ms) : 0;
}
