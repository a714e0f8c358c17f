// Texts of the page for states and errors.

import type { ErrorBody, Question, Run, RunStatus, Snapshot, UserEntry } from "../../src/index.ts";
import { duration } from "./text.ts";

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

/** Errors that only a new sign-in resolves. */
const SIGN_IN_CODES = new Set([
  "AUTH_REQUIRED",
  "INVALID_TOKEN",
  "TOKEN_EXPIRED",
  "USER_NOT_FOUND",
  "USER_DISABLED",
]);

export const wantsSignIn = (error: ErrorBody) => SIGN_IN_CODES.has(error.code);

/** The state of a message, unless it is simply confirmed. */
export function delivery(
  entry: UserEntry,
  isConnected: boolean,
  runStatus: RunStatus | null,
  position: number | null,
): string {
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
  if (runStatus !== "queued") return "";
  return position ? `Waiting its turn – number ${position} in line` : "Waiting its turn";
}

export interface EndWords {
  readonly text: string;
  readonly help: string;
  readonly mayRetry: boolean;
}

/** How a run ended, unless it completed. */
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

export const durationText = (run: Run | undefined): string =>
  run?.duration_ms ? `took ${duration(run.duration_ms)}` : "";

/** The outcome of a closed question. */
export function outcomeText({ kind, outcome }: Pick<Question, "kind" | "outcome">): string {
  switch (outcome) {
    case "answered":
      return "answered";
    case "approved":
      return "approved";
    case "denied":
      return "denied";
    case "expired":
      return kind === "approval" ? "expired, so denied" : "expired without an answer";
    case "cancelled":
      return "cancelled with its run";
    case "unknown":
      return "closed";
    default:
      return outcome ?? "";
  }
}

/** The time until a question expires. */
export function timeLeft(ms: number): string {
  const seconds = Math.max(0, Math.ceil(ms / 1000));
  if (seconds === 0) return "The time to answer is over";
  if (seconds < 60) return `Expires in ${seconds} s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return `Expires in ${minutes} min ${seconds % 60} s`;
  return `Expires in ${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

/** The tokens of a run, and by model. */
export function usageText({ usage }: Pick<Run, "usage">): { readonly short: string; readonly long: string } {
  const number = (value: number) => value.toLocaleString("en");
  const total = usage.reduce((sum, used) => sum + used.input_tokens + used.output_tokens, 0);
  const models = usage.map(({ model, input_tokens, output_tokens, cost }) => {
    const price = cost === undefined ? "" : `, cost ${number(cost)}`;
    return `${model}: ${number(input_tokens)} in, ${number(output_tokens)} out${price}`;
  });
  return { short: `${number(total)} ${total === 1 ? "token" : "tokens"}`, long: models.join("; ") };
}
