// Texts for the state of the connection.

import type { ErrorBody, Snapshot } from "../../src/index.ts";

export type Mood = "good" | "busy" | "bad";

export interface ConnectionText {
  readonly mood: Mood;
  readonly text: string;
  /** Changes every second, so screen readers do not read it. */
  readonly countdown: string;
  readonly more: string;
}

type State = Pick<Snapshot, "status" | "isConnected" | "queued" | "retry">;

/** The state of the connection as a text. */
export function connection(state: State, isOnline: boolean, now: number): ConnectionText {
  const { queued } = state;
  const waiting =
    queued > 0 && !state.isConnected
      ? ` – ${queued} ${queued === 1 ? "message waits" : "messages wait"}`
      : "";
  const say = (mood: Mood, text: string, countdown = ""): ConnectionText => ({
    mood,
    text,
    countdown,
    more: waiting,
  });
  switch (state.status) {
    case "CONNECTED":
      return say("good", "Connected");
    case "CONNECTING":
      return say("busy", "Connecting…");
    case "RECONNECTING": {
      if (!isOnline) return say("busy", "You are offline");
      const left = state.retry ? Math.ceil((state.retry.at - now) / 1000) : 0;
      return say("busy", "Reconnecting", left > 0 ? ` in ${left} s` : "…");
    }
    case "ERROR":
      return say("bad", "Not connected");
    case "DISCONNECTING":
    case "DISCONNECTED":
      return say("bad", isOnline ? "Disconnected" : "You are offline");
  }
}

/** An error in the words of a reader. The details are for who runs the server. */
export interface Explanation {
  readonly text: string;
  readonly help: string;
  readonly details: string | null;
}

const ADMINISTRATOR = "Contact its administrator.";
const BROKEN = { text: "The connection to this server does not work.", help: ADMINISTRATOR };
const RELOAD = { text: "This page and the server do not understand each other.", help: "Reload the page." };

/** Errors whose own texts are for developers. */
const EXPLANATIONS: Readonly<Record<string, Omit<Explanation, "details">>> = {
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

export function explain({ code, error, help, error_id }: ErrorBody): Explanation {
  const words = EXPLANATIONS[code] ?? (code.startsWith("HTTP_") ? BROKEN : null);
  if (words === null) return { text: error, help, details: error_id === undefined ? null : `Error id: ${error_id}` };
  return { ...words, details: `${code}: ${error} ${help}` };
}

/** Errors that only a new sign-in resolves. */
const SIGN_IN_CODES = new Set([
  "AUTH_REQUIRED",
  "INVALID_TOKEN",
  "TOKEN_EXPIRED",
  "USER_NOT_FOUND",
  "USER_DISABLED",
]);

export const wantsSignIn = (error: ErrorBody) => SIGN_IN_CODES.has(error.code);
