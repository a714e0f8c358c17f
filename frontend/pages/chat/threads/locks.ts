// Locks of the browser, which are released when a tab is closed in any way. A page without https has
// none; it has no notifications either.

/** Holds a lock until the returned function is called. */
export function holdLock(name: string, mode: LockMode, onHeld: () => void = () => undefined): () => void {
  const ended = new AbortController();
  const held = new Promise<void>((resolve) => ended.signal.addEventListener("abort", () => resolve()));
  navigator.locks
    .request(name, { mode, signal: ended.signal }, () => {
      onHeld();
      return held;
    })
    .catch(() => undefined); // It was not needed any more before it was granted.
  return () => ended.abort();
}

/** Whether a tab holds a lock. */
export async function isLocked(name: string): Promise<boolean> {
  const { held = [] } = await navigator.locks.query();
  return held.some((lock) => lock.name === name);
}
