// An attempt to sign in, from the redirect to the provider until the redirect back. It is stored for the
// tab only, and contains no token.

import { readStored, session, store } from "../storage.ts";

/** What the answer of the provider must fit. */
export interface Attempt {
  readonly state: string;
  readonly nonce: string;
  readonly verifier: string;
  /** Whether the provider must not ask the user anything. */
  readonly isSilent: boolean;
  /** The hash of the page's address, to return to. */
  readonly hash: string;
}

/** The answer of the provider in the page's address. */
export interface Callback {
  readonly parameters: URLSearchParams;
  /** Null if this tab has not begun a sign-in. */
  readonly attempt: Attempt | null;
}

const STORED = "netra.sign-in-attempt";

/** Stores an attempt. Returns whether the browser allows that. */
export const keepAttempt = (attempt: Attempt): boolean => store(session, STORED, attempt);

/** Takes the provider's answer out of the page's address; null if there is none. */
export function takeCallback(): Callback | null {
  const parameters = new URLSearchParams(location.search);
  if (!parameters.has("code") && !parameters.has("error")) return null;
  const attempt = takeAttempt();
  // At once: neither the history nor a link that the user copies may contain the code.
  history.replaceState(null, "", location.pathname + (attempt?.hash ?? location.hash));
  return { parameters, attempt };
}

function takeAttempt(): Attempt | null {
  const stored = readStored(session, STORED) as Attempt | null;
  store(session, STORED, null);
  return stored;
}
