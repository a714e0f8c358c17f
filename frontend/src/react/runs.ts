/** The hook for a component that shows one run. */

import { useCallback, useSyncExternalStore } from "react";
import { runOf, type Run, type Snapshot } from "../core/snapshot.js";
import { useHandle } from "./context.js";

/**
 * A run with its newest text; undefined while there is none. The component renders again when this
 * run changes, at most once for each frame of the screen while text arrives.
 *
 *     const run = useRun(entry.run_id);
 */
export function useRun(runId: string | null): Run | undefined {
  const { client, runs, readInitial } = useHandle();
  const subscribe = useCallback(
    (listener: () => void) => (runId === null ? () => undefined : runs.add(runId, listener)),
    [runs, runId],
  );
  const from = (state: Pick<Snapshot, "outline" | "writing">): Run | undefined =>
    runId === null ? undefined : runOf(state, runId);
  return useSyncExternalStore(subscribe, () => from(client.getSnapshot()), () => from(readInitial()));
}
