// Who is here: a developer of this machine, somebody with a pasted token, or a user of the page
// around this one.
//
// A developer's name and token are kept for all tabs, and new tokens are asked for when they are
// needed. A pasted token is kept for its tab only, and ends with it.

export type SignIn =
  | { readonly kind: "developer"; readonly user: string }
  | { readonly kind: "token"; readonly user: string; readonly token: string }
  /** Of the page around this one; the user is known once it has given a token. */
  | { readonly kind: "host"; readonly user: string | null };

/** What a page may set as `window.netraTrio` before this one's script runs. */
export interface HostPage {
  /** A token of the page's own login, asked for at every opening. */
  readonly getToken?: () => Promise<string> | string;
  /** The server's address, where it is not the page's own. */
  readonly url?: string;
}

declare global {
  interface Window {
    netraTrio?: HostPage;
  }
}

export const DEVELOPER = "dev";

const KEPT = "netra.sign-in";
const TOKEN = "netra.developer-token";
const SPARE = 60_000; // ms that a kept token has to be good for: the server asks for a new one then
const LOOPBACK = new Set(["localhost", "127.0.0.1", "[::1]"]);

export class SignInFailed extends Error {
  readonly help: string;
  constructor(error: string, help: string) {
    super(error);
    this.help = help;
  }
}

/** Set when the server said that it gives no tokens to developers. */
let isDeployed = false;

/** Whether this page may offer a developer's sign-in: the server gives it to its own machine only. */
export const mayBeDeveloper = () => LOOPBACK.has(location.hostname) && !isDeployed;

export function whoIsHere(): SignIn | null {
  if (window.netraTrio?.getToken) return { kind: "host", user: null };
  return read(sessionStorage) ?? read(localStorage);
}

export function remember(signIn: SignIn): void {
  if (signIn.kind === "host") return;
  const keeper = signIn.kind === "developer" ? localStorage : sessionStorage;
  try {
    keeper.setItem(KEPT, JSON.stringify(signIn));
  } catch {
    // A browser that keeps nothing asks again after a reload.
  }
}

export function forget(): void {
  for (const keeper of [sessionStorage, localStorage]) {
    try {
      keeper.removeItem(KEPT);
      keeper.removeItem(TOKEN);
    } catch {
      // Nothing was kept.
    }
  }
}

/** Call back when somebody signs in or out in another tab. */
export function onOtherTab(run: () => void): () => void {
  const listen = (event: StorageEvent) => {
    if (event.key === KEPT) run();
  };
  addEventListener("storage", listen);
  return () => removeEventListener("storage", listen);
}

/** Ask the page around this one who is here. */
export async function hostSignIn(): Promise<SignIn> {
  const token = (await window.netraTrio?.getToken?.()) ?? "";
  return { kind: "host", user: userOf(token) ?? "guest" };
}

/** Return a function that gives a good token whenever the client asks for one. */
export function tokensOf(signIn: SignIn): () => Promise<string> {
  switch (signIn.kind) {
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
    const kept = keptToken(user);
    // The kept one is good enough to begin with, also without a server: what waits to be sent is
    // known by it. If it was refused, or is about to end, this is asked again.
    if (isFirst && kept !== null) {
      isFirst = false;
      return kept;
    }
    isFirst = false;
    try {
      return await developerToken(user);
    } catch (error) {
      if (kept === null || error instanceof SignInFailed) throw error;
      return kept;
    }
  };
}

/** Ask the server for a developer's token, and keep it. */
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
    // A browser that keeps nothing asks again after a reload.
  }
  return body.token;
}

function keptToken(user: string): string | null {
  try {
    const token = localStorage.getItem(TOKEN) ?? "";
    const claims = claimsOf(token);
    const isGood = claims?.sub === user && (claims.exp ?? 0) * 1000 > Date.now() + SPARE;
    return isGood ? token : null;
  } catch {
    return null;
  }
}

/** The user of a token as it says itself, for the page's own shelves; the server checks it. */
export const userOf = (token: string): string | null => claimsOf(token)?.sub ?? null;

interface Claims {
  readonly sub: string;
  readonly exp?: number;
}

function claimsOf(token: string): Claims | null {
  try {
    const coded = (token.split(".")[1] ?? "").replaceAll("-", "+").replaceAll("_", "/");
    const bytes = Uint8Array.from(atob(coded), (character) => character.charCodeAt(0));
    const claims = JSON.parse(new TextDecoder().decode(bytes)) as Partial<Claims> | null;
    return typeof claims?.sub === "string" && claims.sub ? (claims as Claims) : null;
  } catch {
    return null;
  }
}

function read(keeper: Storage): SignIn | null {
  try {
    const kept = JSON.parse(keeper.getItem(KEPT) ?? "null") as SignIn | null;
    if (kept?.kind === "developer" && typeof kept.user === "string") return kept;
    if (kept?.kind === "token" && typeof kept.token === "string") return kept;
  } catch {
    // What cannot be read was not kept.
  }
  return null;
}
