// Whether a media query matches.

import { useCallback, useSyncExternalStore } from "react";

export function useMedia(query: string): boolean {
  const subscribe = useCallback(
    (run: () => void) => {
      const media = mediaOf(query);
      media?.addEventListener("change", run);
      return () => media?.removeEventListener("change", run);
    },
    [query],
  );
  return useSyncExternalStore(subscribe, () => mediaOf(query)?.matches ?? false);
}

/** Absent where there is no layout. */
const mediaOf = (query: string) => (typeof matchMedia === "function" ? matchMedia(query) : undefined);
