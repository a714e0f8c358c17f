// The open thread is in the page's address, so that a reload and the back button work.

const ID = /^[A-Za-z0-9_-]{1,64}$/;

export function threadInAddress(): string | null {
  const id = location.hash.replace(/^#\/?/, "");
  return ID.test(id) ? id : null;
}

export const addressOf = (id: string) => `#/${id}`;

const listeners = new Set<() => void>();

/** Opens a thread at once: until the browser's own event, keys would still go to the thread before it. */
export function openThread(id: string): void {
  location.hash = addressOf(id);
  for (const run of listeners) run();
}

/** Calls a function after each change of the thread in the address. */
export function onThreadChange(run: () => void): () => void {
  listeners.add(run);
  addEventListener("hashchange", run);
  return () => {
    listeners.delete(run);
    removeEventListener("hashchange", run);
  };
}

export function newThreadId(): string {
  const bytes = crypto.getRandomValues(new Uint8Array(12));
  return `t-${Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("")}`;
}
