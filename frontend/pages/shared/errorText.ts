// Errors in the words of a reader. The texts of the server are for developers and administrators.

import type { ErrorBody } from "../../src/index.ts";

export interface Explanation {
  readonly text: string;
  readonly help: string;
  /** The error as the server or the client reported it, for the people who run the server; null if `text` is that. */
  readonly details: string | null;
}

type Words = Omit<Explanation, "details">;

const ADMINISTRATOR = "Contact its administrator.";
const PERSISTS = "Try again. If it happens again, send the details to an administrator.";
const BROKEN: Words = { text: "The connection to this server does not work.", help: ADMINISTRATOR };
const RELOAD: Words = { text: "This page and the server do not understand each other.", help: "Reload the page." };
const REJECTED: Words = { text: "The server did not accept this message.", help: "Change it, then send it again." };

const BUDGET: Words = {
  text: "Your budget for this agent is used up today.",
  help: "Try again tomorrow, or ask an administrator.",
};

const WORDS: Readonly<Record<string, Words>> = {
  // Of a message.
  VALIDATION_ERROR: REJECTED,
  EMPTY_MESSAGE: REJECTED,
  JSON_PARSE_ERROR: REJECTED,
  INVALID_MESSAGE_TYPE: REJECTED,
  MISSING_TYPE_FIELD: REJECTED,
  INVALID_TYPE_FIELD: REJECTED,
  UNKNOWN_MESSAGE_TYPE: RELOAD,
  MESSAGE_TOO_LARGE: { text: "This message is too long.", help: "Shorten it, or send it in parts." },
  RATE_LIMIT_EXCEEDED: { text: "There are too many messages at once.", help: "Wait a moment, then try again." },
  QUEUE_FULL: { text: "Too many messages wait for their answers.", help: "Wait for an answer, then try again." },
  AGENT_BUSY: { text: "The agent still answers another message.", help: "Wait for that answer, or stop it." },
  AGENT_NOT_FOUND: { text: "This agent is not available any more.", help: "Choose another one, then send it again." },
  THREAD_NOT_FOUND: { text: "This conversation was deleted.", help: "Begin a new one." },
  RUN_NOT_FOUND: { text: "This answer has already ended.", help: "" },
  FILE_NOT_FOUND: { text: "This file is not available any more.", help: "" },
  FORBIDDEN: { text: "You may not do this.", help: "Ask an administrator for the permission." },
  BUDGET_EXCEEDED: BUDGET,
  SERVICE_UNAVAILABLE: { text: "The server cannot do this now.", help: "Try again in a moment." },
  SERVER_DRAINING: { text: "The server restarts.", help: "Try again in a moment." },
  SERVER_FULL: { text: "The server has no free place now.", help: "Try again in a moment." },
  INTERNAL_ERROR: { text: "The server failed.", help: PERSISTS },
  AGENT_TIMEOUT: { text: "The answer took too long and was cut off.", help: "Ask for less at once, or try again." },
  OUTBOX_FULL: { text: "Too many messages wait to be sent.", help: "Wait until the connection is back." },
  TOO_MANY_REQUESTS: { text: "There are too many requests at once.", help: "Wait a moment, then try again." },
  USER_CHANGED: { text: "Another user is signed in.", help: "" },
  CLOSED: { text: "The connection is closed.", help: "" },
  // Of the connection.
  ORIGIN_NOT_ALLOWED: { text: "This server does not accept connections from this page.", help: ADMINISTRATOR },
  NO_ANSWER: { text: "The server cannot be reached.", help: "Check your network." },
  TOKEN_UNAVAILABLE: { text: "Your sign-in could not be confirmed.", help: "Sign in again if this persists." },
  AUTH_REQUIRED: { text: "You are not signed in.", help: "Sign in again." },
  INVALID_TOKEN: { text: "Your sign-in is not valid.", help: "Sign in again." },
  TOKEN_EXPIRED: { text: "Your sign-in has ended.", help: "Sign in again if this persists." },
  UNSUPPORTED_SUBPROTOCOL: BROKEN,
  BAD_REQUEST: BROKEN,
  BAD_ADDRESS: BROKEN,
  BAD_ANSWER: BROKEN,
  DISCOVERY_FAILED: BROKEN,
  BAD_SERVER_FRAME: RELOAD,
  ERROR_LIMIT_EXCEEDED: RELOAD,
};

/** An error in the words of a reader; the server's own words, if they are for a reader. */
export function explain({ code, error, help, error_id, timestamp, retry_after_ms }: ErrorBody): Explanation {
  const id = error_id === undefined ? "" : ` Error id: ${error_id}`;
  // An agent chooses the text of its error, but not the help.
  if (code === "AGENT_ERROR") return { text: error, help: PERSISTS, details: `${code}.${id}` };
  const words = WORDS[code] ?? (code.startsWith("HTTP_") ? BROKEN : null);
  if (code === "BUDGET_EXCEEDED" && retry_after_ms !== undefined) {
    const at = new Date(timestamp * 1000 + retry_after_ms).toLocaleTimeString([], { timeStyle: "short" });
    const again = `Try again after ${at}, or ask an administrator.`;
    return { text: BUDGET.text, help: again, details: `${code}: ${error} ${help}${id}` };
  }
  if (words === null) return { text: error, help, details: id === "" ? null : id.trim() };
  return { ...words, details: `${code}: ${error} ${help}${id}` };
}
