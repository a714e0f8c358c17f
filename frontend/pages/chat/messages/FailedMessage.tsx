// A message that was not sent: why, and what the user may do with its text.

import type { UserEntry } from "../../../src/index.ts";
import { PenIcon, RetryIcon } from "../../shared/icons.tsx";
import { useActions } from "../composer/actions.ts";
import { explain } from "../../shared/errorText.ts";
import { Problem } from "./Problem.tsx";

/** Errors that the same text gets again. */
const PERMANENT = new Set(["MESSAGE_TOO_LARGE", "VALIDATION_ERROR", "THREAD_NOT_FOUND"]);

interface Props {
  readonly entry: UserEntry;
  readonly onRetry: (() => void) | undefined;
}

export function FailedMessage({ entry, onRetry }: Props) {
  const { takeBack, discard } = useActions();
  const { text, help, details } = entry.error === null ? { text: "", help: "", details: null } : explain(entry.error);
  return (
    <Problem text={`Not sent. ${text}`.trim()} help={help} details={details}>
      {onRetry && !PERMANENT.has(entry.error?.code ?? "") && (
        <button type="button" className="quiet" onClick={onRetry}>
          <RetryIcon />
          Send again
        </button>
      )}
      <button type="button" className="quiet" onClick={() => takeBack(entry)}>
        <PenIcon />
        Edit
      </button>
      <button type="button" className="quiet" onClick={() => discard(entry)}>Discard</button>
    </Problem>
  );
}
