// An attempt to sign in, from the redirect to the provider until the redirect back. It is stored for the
// tab only, and contains no token.

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

/** Stores an attempt. Throws if the browser allows no storage. */
export function keepAttempt(attempt: Attempt): void {
  sessionStorage.setItem(STORED, JSON.stringify(attempt));
}

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
  try {
    const stored = sessionStorage.getItem(STORED);
    sessionStorage.removeItem(STORED);
    return stored === null ? null : (JSON.parse(stored) as Attempt);
  } catch {
    return null; // without storage, no attempt could be stored either
  }
}
