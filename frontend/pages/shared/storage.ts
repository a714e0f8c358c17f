// The storage of the browser, which may be full, blocked, or hold another version's values.

/** The storages are named as functions: where they are blocked, even naming them throws. */
export const local = () => localStorage;
export const session = () => sessionStorage;

export function readStored(storage: () => Storage, name: string): unknown {
  try {
    return JSON.parse(storage().getItem(name) ?? "null") as unknown;
  } catch {
    return null;
  }
}

/** Stores a value; null removes it. Returns whether that was possible. */
export function store(storage: () => Storage, name: string, value: unknown): boolean {
  try {
    if (value === null) storage().removeItem(name);
    else storage().setItem(name, JSON.stringify(value));
    return true;
  } catch {
    return false;
  }
}

/** The names in a storage that begin with a text. */
export function namesIn(storage: () => Storage, begin: string): readonly string[] {
  try {
    const all = storage();
    const names = Array.from({ length: all.length }, (_, index) => all.key(index) ?? "");
    return names.filter((name) => name.startsWith(begin));
  } catch {
    return [];
  }
}
