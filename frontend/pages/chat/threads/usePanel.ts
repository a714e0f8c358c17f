// Whether the conversations are shown: beside the open one, or on a narrow screen as a drawer above it.

import { type RefObject, useCallback, useEffect, useRef, useState } from "react";
import { local, readStored, store } from "../../shared/storage.ts";
import { useMedia } from "../../shared/useMedia.ts";

export interface Panel {
  /** On a narrow screen. */
  readonly isDrawer: boolean;
  readonly isOpen: boolean;
  readonly open: () => void;
  readonly close: () => void;
  readonly toggle: () => void;
}

const STORED = "netra.conversations-hidden"; // on a wide screen

/** @param opener Gets the focus when the conversations are hidden, unless another element has it. */
export function usePanel(opener: RefObject<HTMLElement | null>): Panel {
  const isDrawer = useMedia("(max-width: 46rem)");
  const [isDrawerOpen, setDrawerOpen] = useState(false);
  const [isShown, setShown] = useState(() => readStored(local, STORED) !== true);
  const isOpen = isDrawer ? isDrawerOpen : isShown;

  const set = useCallback(
    (next: boolean) => {
      if (isDrawer) {
        setDrawerOpen(next);
        return;
      }
      setShown(next);
      store(local, STORED, next ? null : true);
    },
    [isDrawer],
  );
  const open = useCallback(() => set(true), [set]);
  const close = useCallback(() => set(false), [set]);
  const toggle = useCallback(() => set(!isOpen), [set, isOpen]);

  const wasOpen = useRef(isOpen);
  useEffect(() => {
    const isFree = document.activeElement?.matches("body, #sidebar *") ?? true;
    if (wasOpen.current && !isOpen && isFree) opener.current?.focus();
    // On a wide screen the opener is hidden with the next frame.
    if (!wasOpen.current && isOpen && !isDrawer && document.activeElement === opener.current) {
      document.querySelector<HTMLElement>("#sidebar [aria-label='Close conversations']")?.focus();
    }
    wasOpen.current = isOpen;
  }, [isOpen, isDrawer, opener]);
  return { isDrawer, isOpen, open, close, toggle };
}
