/** Who tries again after what: tables, by close code and HTTP status. Never by a reason's text. */

import type { ErrorBody } from "../protocol/messages.js";

/** `token`: with a new token; `stop`: only when asked to; `done`: the server said good-bye. */
export type AfterClose = "retry" | "token" | "stop" | "done";

interface CloseKind {
  readonly after: AfterClose;
  readonly code: string;
  readonly error: string;
  readonly help: string;
}

const BACK_SOON = "Nothing to do: the client connects again by itself.";
const WHEN_ASKED = "Connect again when you want to go on here.";

const CLOSES: Readonly<Record<number, CloseKind>> = {
  1000: { after: "done", code: "CLOSED", error: "The server closed the connection.", help: WHEN_ASKED },
  1001: { after: "retry", code: "SERVER_GOING_AWAY", error: "The server is going away.", help: BACK_SOON },
  1006: { after: "retry", code: "CONNECTION_LOST", error: "The line was cut.", help: BACK_SOON },
  1009: { after: "stop", code: "MESSAGE_TOO_LARGE", error: "A message was far too large.", help: "Send a shorter message." },
  1011: { after: "retry", code: "INTERNAL_ERROR", error: "The server failed.", help: BACK_SOON },
  1012: { after: "retry", code: "SERVER_RESTART", error: "The server restarts.", help: BACK_SOON },
  4400: { after: "stop", code: "ERROR_LIMIT_EXCEEDED", error: "Too many frames were not understood.", help: "Reload the page to get its newest version." },
  4401: { after: "token", code: "TOKEN_EXPIRED", error: "The token has ended.", help: "Log in again if this does not mend itself." },
  4403: { after: "stop", code: "USER_DISABLED", error: "The user is disabled or was removed.", help: "Ask an administrator." },
  4408: { after: "retry", code: "HEARTBEAT_MISSED", error: "The server did not hear from this page in time.", help: BACK_SOON },
  4409: { after: "stop", code: "TAKEN_OVER", error: "The session goes on in another window.", help: WHEN_ASKED },
  4429: { after: "stop", code: "CONNECTION_LIMIT_EXCEEDED", error: "The user has too many connections.", help: "Close a connection that is not needed, then connect again." },
};

export function closeKind(code: number): CloseKind {
  return (
    CLOSES[code] ?? { after: "stop", code: "CLOSED", error: `The connection was closed (${code}).`, help: WHEN_ASKED }
  );
}

/** `fresh`: once more, with a new token. */
export type AfterStatus = "retry" | "fresh" | "stop";

export function afterStatus(status: number): AfterStatus {
  if (status === 401) return "fresh";
  // What a proxy says while the server behind it restarts comes as 5xx too; 408 and 425 ask for it.
  if (status === 408 || status === 425 || status === 429 || status >= 500) return "retry";
  return "stop";
}

/** Errors after which a message keeps its key and is sent again, in its place. */
export const SEND_AGAIN: ReadonlySet<string> = new Set([
  "RATE_LIMIT_EXCEEDED",
  "QUEUE_FULL",
  "SERVICE_UNAVAILABLE",
  "SERVER_DRAINING",
]);

/** Refusals that another token of the same user may get past. */
export const TOKEN_REFUSED: ReadonlySet<string> = new Set([
  "AUTH_REQUIRED",
  "INVALID_TOKEN",
  "TOKEN_EXPIRED",
]);

/** An error of this side's, in the form of the server's. `now` is in milliseconds. */
export function localError(
  now: number,
  code: string,
  error: string,
  help: string,
  recoverable = true,
): ErrorBody {
  return { code, error, help, recoverable, timestamp: now / 1000 };
}

/** Milliseconds that a `Retry-After` asks for: seconds, or a date. */
export function retryAfterMs(header: string | null, now: number): number {
  if (header === null) return 0;
  const seconds = Number(header);
  const ms = Number.isNaN(seconds) ? Date.parse(header) - now : seconds * 1000;
  return Number.isFinite(ms) ? Math.max(0, ms) : 0;
}
