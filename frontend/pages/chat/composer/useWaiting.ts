// A message that is sent before its files are uploaded: it waits for them.

import { type RefObject, useCallback, useEffect, useEffectEvent, useRef, useState } from "react";
import { isUnderWay, type UploadList } from "../../../src/index.ts";

interface Wish {
  readonly isUrgent: boolean;
}

export interface Waiting {
  readonly isWaiting: boolean;
  /** Null: the message does not wait any more. */
  readonly wait: (wish: Wish | null) => void;
  /** The newest state, before it is rendered. */
  readonly wish: RefObject<Wish | null>;
}

export function useWaiting(): Waiting {
  const wish = useRef<Wish | null>(null);
  const [isWaiting, setWaiting] = useState(false);
  const wait = useCallback((next: Wish | null) => {
    wish.current = next;
    setWaiting(next !== null);
  }, []);
  return { isWaiting, wait, wish };
}

/** Calls `submit` once when no upload is under way any more: all are done, or some have failed. */
export function useSubmitLater({ wait, wish }: Waiting, list: UploadList, submit: (isUrgent: boolean) => void): void {
  const onChange = useEffectEvent(() => {
    const { current } = wish;
    if (current === null || list.getSnapshot().some(isUnderWay)) return;
    wait(null);
    submit(current.isUrgent);
  });
  useEffect(() => list.subscribe(() => onChange()), [list]);
}
