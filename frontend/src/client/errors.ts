/** The errors that the client itself reports, in the form of the server's. */

import { localError } from "../core/retry-rules.js";
import type { ErrorBody } from "../protocol/messages.js";

export const outboxFull = (now: number): ErrorBody =>
  localError(now, "OUTBOX_FULL", "Too many messages wait to be sent.", "Wait until the connection is back.");

export const tooManyRequests = (now: number): ErrorBody =>
  localError(now, "TOO_MANY_REQUESTS", "Too many requests wait for an answer.", "Wait for their answers.");

export const invalid = (now: number, fault: string): ErrorBody =>
  localError(now, "VALIDATION_ERROR", fault, "Fix the field at the path.");

export const USER_CHANGED = "USER_CHANGED";

export const userChanged = (now: number): ErrorBody =>
  localError(now, USER_CHANGED, "Another user is logged in.", "Send the request again as this user.");

export const NOT_CONNECTED = "NOT_CONNECTED";

export const notConnected = (now: number): ErrorBody =>
  localError(now, NOT_CONNECTED, "There is no connection, and none is being opened.", "Connect, and try again.");

export const clientClosed = (now: number): ErrorBody =>
  localError(now, "CLOSED", "The client was closed.", "Create a new one.");
