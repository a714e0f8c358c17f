// Texts for the outcome and the time of questions.

import type { Question } from "../../../src/index.ts";

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
