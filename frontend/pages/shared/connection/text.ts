// Texts for the state of the connection.

import type { ErrorBody, Snapshot, Transport } from "../../../src/index.ts";

export type Mood = "good" | "busy" | "bad";

export interface ConnectionText {
  readonly mood: Mood;
  readonly text: string;
  /** Changes every second, so screen readers do not read it. */
  readonly countdown: string;
  readonly more: string;
}

type State = Pick<Snapshot, "status" | "isConnected" | "queued" | "retry"> & {
  readonly transport: Transport | undefined;
};

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
      return say("good", state.transport === "websocket" ? "Connected" : "Connected without WebSocket");
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

/** Errors that only a new sign-in resolves. */
const SIGN_IN_CODES = new Set([
  "AUTH_REQUIRED",
  "INVALID_TOKEN",
  "TOKEN_EXPIRED",
  "USER_NOT_FOUND",
  "USER_DISABLED",
]);

export const wantsSignIn = (error: ErrorBody) => SIGN_IN_CODES.has(error.code);
