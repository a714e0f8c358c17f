// Texts for the delivery of messages and the ends of runs.

import type { ErrorBody, Run, RunStatus, UserEntry } from "../../../src/index.ts";
import { duration } from "../../shared/text.ts";
import { explain } from "../../shared/errorText.ts";

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
  readonly details: string | null;
}

/** How a run ended, unless it completed. */
export function ending(status: RunStatus, error: ErrorBody | null): EndWords | null {
  const words = ENDINGS[status];
  if (words === undefined) return null;
  return error === null || status === "cancelled" && error.code !== "BUDGET_EXCEEDED" ? { ...words, details: null } : explain(error);
}

const ENDINGS: Readonly<Partial<Record<RunStatus, Omit<EndWords, "details">>>> = {
  cancelled: { text: "Stopped.", help: "" },
  timed_out: { text: "The answer took too long and was cut off.", help: "Ask for less at once, or try again." },
  interrupted: { text: "The server ended before the answer was complete.", help: "Ask again to get the whole answer." },
  failed: { text: "The agent failed.", help: "" },
};

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
