/** Selected parts of a store, kept as the same value while they are equal. */

/** Whether two values are the same, or arrays or plain objects with the same elements. */
export function shallowEqual(a: unknown, b: unknown): boolean {
  if (Object.is(a, b)) return true;
  if (typeof a !== "object" || typeof b !== "object" || a === null || b === null) return false;
  if (Array.isArray(a) !== Array.isArray(b)) return false;
  const keys = Object.keys(a);
  if (keys.length !== Object.keys(b).length) return false;
  return keys.every(
    (key) => Object.hasOwn(b, key) && Object.is(a[key as keyof typeof a], b[key as keyof typeof b]),
  );
}

export type Equality<T> = (before: T, after: T) => boolean;

/**
 * The selection of one component over its renders. The last rendered value is kept, so that a new
 * selector function with an equal result gives the same value.
 */
export class Selection<S, T> {
  #rendered: { readonly value: T } | null = null;

  /** Returns a reader that calls the selector once for each state of the store. */
  reader(read: () => S, selector: (state: S) => T, isEqual: Equality<T>): () => T {
    let last: { readonly state: S; readonly value: T } | null = null;
    return () => {
      const state = read();
      if (last !== null && Object.is(last.state, state)) return last.value;
      const selected = selector(state);
      const before = last ?? this.#rendered;
      const value = before !== null && isEqual(before.value, selected) ? before.value : selected;
      last = { state, value };
      return value;
    };
  }

  /** React has rendered this value. */
  rendered(value: T): void {
    this.#rendered = { value };
  }
}
