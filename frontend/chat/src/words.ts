// What the page says about states and errors.

import type { ErrorBody, Run, RunStatus, Snapshot, UserEntry } from "../../src/index.ts";
import { duration } from "./text.ts";

export type Mood = "good" | "busy" | "bad";

export interface Said {
  readonly mood: Mood;
  readonly text: string;
  /** Changes every second, so it is shown and not read out. */
  readonly countdown: string;
  readonly more: string;
}

/** The connection's state in words. */
export function connection(snapshot: Snapshot, isOnline: boolean, now: number): Said {
  const { queued } = snapshot;
  const waiting =
    queued > 0 && !snapshot.isConnected
      ? ` – ${queued} ${queued === 1 ? "message waits" : "messages wait"}`
      : "";
  const say = (mood: Mood, text: string, countdown = ""): Said => ({
    mood,
    text,
    countdown,
    more: waiting,
  });
  switch (snapshot.status) {
    case "CONNECTED":
      return say("good", "Connected");
    case "CONNECTING":
      return say("busy", "Connecting…");
    case "RECONNECTING": {
      if (!isOnline) return say("busy", "You are offline");
      const left = snapshot.retry ? Math.ceil((snapshot.retry.at - now) / 1000) : 0;
      return say("busy", "Reconnecting", left > 0 ? ` in ${left} s` : "…");
    }
    case "ERROR":
      return say("bad", "Not connected");
    case "DISCONNECTING":
    case "DISCONNECTED":
      return say("bad", isOnline ? "Disconnected" : "You are offline");
  }
}

/** Errors that the reader can do away with only by signing in again. */
const SIGN_IN_CODES = new Set([
  "AUTH_REQUIRED",
  "INVALID_TOKEN",
  "TOKEN_EXPIRED",
  "USER_NOT_FOUND",
  "USER_DISABLED",
]);

export const wantsSignIn = (error: ErrorBody) => SIGN_IN_CODES.has(error.code);

/** What became of a message, where that needs to be said. */
export function delivery(entry: UserEntry, isConnected: boolean, run: Run | undefined): string {
  switch (entry.status) {
    case "failed":
      return "Not sent";
    case "unconfirmed":
      return "Not confirmed yet – it is sent again once connected";
    case "pending":
      return isConnected ? "Sending…" : "Waiting for the connection";
    case "confirmed":
      break;
  }
  if ((run?.status ?? entry.run_status) !== "queued") return "";
  const position = run?.position;
  return position ? `Waiting its turn – number ${position} in line` : "Waiting its turn";
}

export interface EndWords {
  readonly text: string;
  readonly help: string;
  readonly mayRetry: boolean;
}

/** How a run ended, where it did not simply complete. */
export function ending(status: RunStatus, error: ErrorBody | null): EndWords | null {
  switch (status) {
    case "cancelled":
      return { text: "Stopped.", help: "", mayRetry: true };
    case "timed_out":
      return {
        text: error?.error ?? "The answer took too long and was cut off.",
        help: error?.help ?? "",
        mayRetry: true,
      };
    case "interrupted":
      return {
        text: error?.error ?? "The server ended before the answer was complete.",
        help: error?.help ?? "Send it again to get the whole answer.",
        mayRetry: true,
      };
    case "failed":
      return {
        text: error?.error ?? "The agent failed.",
        help: error?.help ?? "",
        mayRetry: true,
      };
    default:
      return null;
  }
}

export const took = (run: Run | undefined): string =>
  run?.duration_ms ? `took ${duration(run.duration_ms)}` : "";
