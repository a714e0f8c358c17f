// The result of a run as an answer.

import type { Run } from "../../../src/index.ts";
import { pretty } from "../../shared/text.ts";

/** The result of a run that streamed no text, as Markdown. */
export function resultOf(run: Run | undefined): string {
  const result = run?.status === "completed" ? run.result : undefined;
  if (result === undefined || result === null) return "";
  return typeof result === "string" ? result : `\`\`\`json\n${pretty(result)}\n\`\`\``;
}
