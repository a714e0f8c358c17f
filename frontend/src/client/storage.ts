import type { Storage } from "../ports.js";

/** Stores a value if there is room. Without it, only a reload loses the value. */
export function tryToStore(storage: Storage, name: string, value: string): void {
  try {
    storage.set(name, value);
  } catch {
    // The page itself has the value as long as it is open.
  }
}
