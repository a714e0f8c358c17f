// How the page begins: signed in already, back from the provider's sign-in, or with the sign-in card.

import { type Callback, takeCallback } from "./oidc/attempt.ts";
import { currentConfig } from "./oidc/config.ts";
import { needsUser, problemOf } from "./oidc/problems.ts";
import { Provider } from "./oidc/provider.ts";
import { OidcSession } from "./oidc/session.ts";
import type { Problem } from "./problem.ts";
import { forget, remember, type SignIn, storedSignIn } from "./signin.ts";

/** How far the sign-in is. */
export type Phase =
  /** `ended` is the session that the user has just signed out of. */
  | { readonly at: "card"; readonly why: Problem | null; readonly ended: OidcSession | null }
  /** On the way to the provider, or back from it. */
  | { readonly at: "provider" }
  /** Waiting for the token of the embedding page. */
  | { readonly at: "host" }
  | { readonly at: "signed-in"; readonly signIn: SignIn };

export interface Arrival {
  readonly phase: Phase;
  /** The phase that follows by itself. */
  readonly next: Promise<Phase> | null;
}

const ON_THE_WAY: Phase = { at: "provider" };

export const card = (why: Problem | null, ended: OidcSession | null = null): Phase => ({ at: "card", why, ended });

/**
 * Called once, before the page renders: it takes the provider's answer out of the page's address, and
 * brings back the hash that the address had before.
 */
export function arrive(): Arrival {
  if (window.netraTrio?.getToken) return { phase: { at: "host" }, next: null };
  const callback = takeCallback();
  if (callback !== null) return { phase: ON_THE_WAY, next: complete(callback) };
  return stored();
}

/** The phase that follows from what is stored, also by another tab. */
export function stored(): Arrival {
  const signIn = storedSignIn();
  if (signIn === "oidc") return { phase: ON_THE_WAY, next: goToProvider(true) };
  return { phase: signIn === null ? card(null) : { at: "signed-in", signIn }, next: null };
}

/** Leaves the page for the provider; resolves only if that fails. */
export async function goToProvider(isSilent: boolean): Promise<Phase> {
  try {
    const config = await currentConfig();
    if (config === null) {
      forget();
      return card(null);
    }
    await (await Provider.discover(config)).redirect(isSilent);
    return await new Promise<Phase>(() => undefined);
  } catch (error) {
    return card(problemOf(error));
  }
}

async function complete(callback: Callback): Promise<Phase> {
  try {
    const config = await currentConfig();
    if (config === null) {
      const { phase, next } = stored();
      return await (next ?? phase);
    }
    const provider = await Provider.discover(config);
    const session = new OidcSession(provider, await provider.complete(callback));
    const signIn: SignIn = { kind: "oidc", user: session.subject, session };
    remember(signIn);
    return { at: "signed-in", signIn };
  } catch (error) {
    const isExpected = callback.attempt?.isSilent === true && needsUser(error);
    return card(isExpected ? null : problemOf(error));
  }
}
