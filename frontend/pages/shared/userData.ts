// What this browser stores for a user, besides the sign-in: it is removed when the user signs out.

import { local, namesIn, store } from "./storage.ts";

/** Drafts, messages that were refused, and chosen agents. */
type Kind = "draft" | "unsent" | "agents";

const KINDS: readonly Kind[] = ["draft", "unsent", "agents"];
/** The user who has signed out in this browser, for its other tabs. */
const SIGNED_OUT = "netra.signed-out";

const listeners = new Set<(user: string) => void>();

const beginOf = (kind: Kind) => `netra.${kind} `;

/** The name in `localStorage` of a user's data: of a thread, or of a tab, if there are several. */
export const dataName = (kind: Kind, user: string, ...more: readonly string[]): string =>
  beginOf(kind) + JSON.stringify([user, ...more]);

export interface Stored {
  readonly name: string;
  readonly user: string;
  /** What the name has after the user. */
  readonly more: readonly string[];
}

/** All data of a kind, of all users. */
export function dataOf(kind: Kind): readonly Stored[] {
  const begin = beginOf(kind);
  return namesIn(local, begin).flatMap((name) => {
    const [user, ...more] = partsOf(name.slice(begin.length));
    return user === undefined ? [] : [{ name, user, more }];
  });
}

function partsOf(text: string): readonly string[] {
  try {
    const parts = JSON.parse(text) as unknown;
    return Array.isArray(parts) && parts.every((part) => typeof part === "string") ? parts : [];
  } catch {
    return []; // of another version
  }
}

/** Calls back when the data of a user has been removed. */
export function onForgotten(run: (user: string) => void): () => void {
  listeners.add(run);
  return () => listeners.delete(run);
}

/** Removes the data of a user. */
export function forgetUser(user: string): void {
  for (const kind of KINDS) for (const one of dataOf(kind)) if (one.user === user) store(local, one.name, null);
  for (const run of listeners) run(user);
}

/** Tells the other tabs that a user has signed out. */
export function reportSignOut(user: string): void {
  store(local, SIGNED_OUT, user);
  store(local, SIGNED_OUT, null);
}

/** Calls back when a user has signed out in another tab. */
export function onSignOut(run: (user: string) => void): () => void {
  const listen = ({ key, newValue }: StorageEvent) => {
    if (key !== SIGNED_OUT || newValue === null) return;
    run(JSON.parse(newValue) as string);
  };
  addEventListener("storage", listen);
  return () => removeEventListener("storage", listen);
}
