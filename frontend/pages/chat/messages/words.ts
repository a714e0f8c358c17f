// Texts for the delivery of messages and the ends of runs.

import type { ErrorBody, Run, RunStatus, UserEntry } from "../../../src/index.ts";
import { duration } from "../../shared/text.ts";

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
