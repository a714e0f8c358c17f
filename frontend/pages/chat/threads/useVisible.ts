// Whether the user can see this page.

import { useSyncExternalStore } from "react";

const isVisible = () => document.visibilityState === "visible";

export function useVisible(): boolean {
  return useSyncExternalStore(onVisibility, isVisible);
}

function onVisibility(run: () => void): () => void {
  document.addEventListener("visibilitychange", run);
  return () => document.removeEventListener("visibilitychange", run);
}
