// Signing in: at the server's OpenID Connect provider, as a developer of this machine, with a pasted token,
// or as a user of the embedding page.
//
// Tokens of a provider are in memory only; what is stored is that the user signed in there. A developer's
// name and token are stored for all tabs, and the token is renewed when needed. A pasted token is stored
// for its tab only, and cannot be renewed.

import { claimsOf, userOf } from "./claims.ts";
import type { OidcSession } from "./oidc/session.ts";
import { SignInFailed } from "./problem.ts";
import { local, readStored, session, store } from "./storage.ts";

/** `user` is the id of the user: names are not unique. */
export type SignIn =
  | { readonly kind: "oidc"; readonly user: string; readonly session: OidcSession }
  | { readonly kind: "developer"; readonly user: string }
  | { readonly kind: "token"; readonly user: string; readonly token: string }
  /** Signed in on the embedding page; its first token names the user. */
  | { readonly kind: "host"; readonly user: string };

/** The options that a page may set as `window.netraTrio` before this page's script runs. */
export interface HostPage {
  /** Returns a token of the page's own login; called for each connection and each renewal. */
  readonly getToken?: () => Promise<string> | string;
  /** The server's address, if it is not the page's own. */
  readonly url?: string;
}

declare global {
  interface Window {
    netraTrio?: HostPage;
  }
}

export const DEVELOPER = "dev";

const STORED = "netra.sign-in";
const TOKEN = "netra.developer-token";
const SPARE = 60_000; // ms that a stored token must be valid for: the server warns a minute before its end
const LOOPBACK = new Set(["localhost", "127.0.0.1", "[::1]"]);

/** The name of the user for display. */
export const nameOf = (signIn: SignIn) => (signIn.kind === "oidc" ? signIn.session.name : signIn.user);

/** Set once the server has answered that it gives no tokens to developers. */
let isDeployed = false;

/** Whether to offer the developer's sign-in, which the server allows on its own machine only. */
export const mayBeDeveloper = () => LOOPBACK.has(location.hostname) && !isDeployed;

/** The stored sign-in; `"oidc"` if the user signed in at the provider, whose tokens are not stored. */
export function storedSignIn(): SignIn | "oidc" | null {
  return read(session) ?? read(local);
}

export function remember(signIn: SignIn): void {
  // Without storage the user signs in again after a reload.
  switch (signIn.kind) {
    case "oidc":
      store(session, STORED, null);
      store(local, STORED, { kind: "oidc" });
      break;
    case "developer":
      store(local, STORED, signIn);
      break;
    case "token":
      store(session, STORED, signIn);
      break;
    case "host":
      break;
  }
}

export function forget(): void {
  for (const storage of [session, local]) for (const name of [STORED, TOKEN]) store(storage, name, null);
}

/** Call back when the user signs in or out in another tab. */
export function onOtherTab(run: () => void): () => void {
  const listen = (event: StorageEvent) => {
    if (event.key === STORED) run();
  };
  addEventListener("storage", listen);
  return () => removeEventListener("storage", listen);
}

/** Sign in with the token of the embedding page. */
export async function hostSignIn(): Promise<SignIn> {
  const token = (await window.netraTrio?.getToken?.()) ?? "";
  return { kind: "host", user: userOf(token) ?? "guest" };
}

/** Return the function that gives the client a valid token. */
export function tokensOf(signIn: SignIn): () => Promise<string> {
  switch (signIn.kind) {
    case "oidc":
      return signIn.session.token;
    case "host":
      return async () => (await window.netraTrio?.getToken?.()) ?? "";
    case "token":
      return () => Promise.resolve(signIn.token);
    case "developer":
      return developerTokens(signIn.user);
  }
}

function developerTokens(user: string): () => Promise<string> {
  let isFirst = true;
  return async () => {
    const stored = storedToken(user);
    // The stored token is tried first. It works without a server too, and names the user whose unsent
    // messages are shown. If it is refused or expires, the client asks again.
    if (isFirst && stored !== null) {
      isFirst = false;
      return stored;
    }
    isFirst = false;
    try {
      return await developerToken(user);
    } catch (error) {
      if (stored === null || error instanceof SignInFailed) throw error;
      return stored;
    }
  };
}

/** Ask the server for a developer's token, and store it. */
export async function developerToken(user: string): Promise<string> {
  const answer = await fetch("/ws/dev-token", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ user }),
  });
  if (answer.status === 404) {
    isDeployed = true;
    throw new SignInFailed(
      "This server gives no tokens to developers.",
      "That is for development, on the machine that the server runs on. Sign in with a token.",
    );
  }
  const body = (await answer.json()) as { token?: string; error?: string; help?: string };
  if (!answer.ok || body.token === undefined) {
    throw new SignInFailed(body.error ?? `The server answered ${answer.status}.`, body.help ?? "");
  }
  try {
    localStorage.setItem(TOKEN, body.token);
  } catch {
    // Without storage the user signs in again after a reload.
  }
  return body.token;
}

function storedToken(user: string): string | null {
  try {
    const token = localStorage.getItem(TOKEN) ?? "";
    const claims = claimsOf(token);
    const isValid = claims?.sub === user && (claims.exp ?? 0) * 1000 > Date.now() + SPARE;
    return isValid ? token : null;
  } catch {
    return null;
  }
}

function read(storage: () => Storage): SignIn | "oidc" | null {
  const stored = readStored(storage, STORED) as SignIn | null;
  if (stored?.kind === "oidc") return "oidc";
  if (stored?.kind === "developer" && typeof stored.user === "string") return stored;
  if (stored?.kind === "token" && typeof stored.token === "string") return stored;
  return null;
}
