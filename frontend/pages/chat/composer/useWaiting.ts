// A message that is sent before its files are uploaded: it waits for them.

import { type RefObject, useCallback, useEffect, useEffectEvent, useRef, useState } from "react";
import { isUnderWay, type UploadList } from "../../../src/index.ts";

interface Submission {
  readonly isUrgent: boolean;
}

export interface Waiting {
  readonly isWaiting: boolean;
  /** Null: the message does not wait any more. */
  readonly wait: (submission: Submission | null) => void;
  /** The newest state, before it is rendered. */
  readonly submission: RefObject<Submission | null>;
}

export function useWaiting(): Waiting {
  const submission = useRef<Submission | null>(null);
  const [isWaiting, setWaiting] = useState(false);
  const wait = useCallback((next: Submission | null) => {
    submission.current = next;
    setWaiting(next !== null);
  }, []);
  return { isWaiting, wait, submission };
}

/** Calls `submit` once when no upload is under way any more: all are done, or some have failed. */
export function useSubmitLater({ wait, submission }: Waiting, list: UploadList, submit: (isUrgent: boolean) => void): void {
  const onChange = useEffectEvent(() => {
    const { current } = submission;
    if (current === null || list.getSnapshot().some(isUnderWay)) return;
    wait(null);
    submit(current.isUrgent);
  });
  useEffect(() => list.subscribe(() => onChange()), [list]);
}
