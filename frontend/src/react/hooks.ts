/** The hooks: all of the client's state, or a selected part of it. */

import { useEffect, useMemo, useState, useSyncExternalStore } from "react";
import type { NetraClient } from "../client/api.js";
import { useHandle, type EnhancedWebSocket } from "./context.js";
import { Selection, type Equality } from "./selection.js";

/** The client itself. The component does not render again when something changes. */
export function useNetraClient(): NetraClient {
  return useHandle().client;
}

/** The whole state and the methods. The component renders again after every change. */
export function useEnhancedWebSocket(): EnhancedWebSocket {
  const { client, read, readInitial } = useHandle();
  return useSyncExternalStore<EnhancedWebSocket>(client.subscribe, read, readInitial);
}

/**
 * A part of the state. The component renders again only if the selected value changes.
 *
 *     const status = useNetra((netra) => netra.status);
 *     const ids = useNetra((netra) => netra.messages.map(({ id }) => id), shallowEqual);
 *
 * @param selector Called at each change; it must be pure, and may be a new function each time.
 * @param isEqual Decides whether the selected value has changed; `Object.is` if absent.
 */
export function useNetra<T>(
  selector: (netra: EnhancedWebSocket) => T,
  isEqual: Equality<T> = Object.is,
): T {
  const { client, read, readInitial } = useHandle();
  const [selection] = useState(() => new Selection<EnhancedWebSocket, T>());
  const select = useMemo(
    () => selection.reader(read, selector, isEqual),
    [selection, read, selector, isEqual],
  );
  const selectInitial = useMemo(
    () => selection.reader(readInitial, selector, isEqual),
    [selection, readInitial, selector, isEqual],
  );
  const value = useSyncExternalStore<T>(client.subscribe, select, selectInitial);
  useEffect(() => selection.rendered(value), [selection, value]);
  return value;
}
