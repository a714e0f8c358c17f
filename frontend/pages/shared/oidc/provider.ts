// The requests to an OpenID Connect provider: authorization code with PKCE, and refresh tokens.

import * as oauth from "oauth4webapi";
import { claimsOf } from "../claims.ts";
import { SignInFailed } from "../problem.ts";
import { type Callback, keepAttempt } from "./attempt.ts";
import type { OidcConfig } from "./config.ts";
import { OUTDATED } from "./problems.ts";

const ANSWER_WITHIN = 10_000; // ms, for each request

/** The tokens of a user. */
export interface Tokens {
  /** The token that the server accepts. */
  readonly bearer: string;
  /** When it ends, in ms since 1970 by this device's clock. */
  readonly endsAt: number;
  /** The `sub` of the bearer. */
  readonly subject: string;
  /** The user's name for display. */
  readonly name: string;
  readonly idToken: string;
  readonly refresh: string | null;
}

/** The address that the provider redirects to: this page, without query and hash. */
const pageAddress = () => location.origin + location.pathname;

export class Provider {
  readonly #config: OidcConfig;
  readonly #server: oauth.AuthorizationServer;
  readonly #client: oauth.Client;

  private constructor(config: OidcConfig, server: oauth.AuthorizationServer) {
    this.#config = config;
    this.#server = server;
    this.#client = { client_id: config.client_id, [oauth.clockSkew]: config.clockSkew / 1000 };
  }

  static async discover(config: OidcConfig): Promise<Provider> {
    if (!isSecureContext) {
      throw new SignInFailed("Signing in needs a secure connection.", "Open this page with https.");
    }
    const issuer = new URL(config.issuer);
    const answer = await oauth.discoveryRequest(issuer, optionsOf(config));
    return new Provider(config, await oauth.processDiscoveryResponse(issuer, answer));
  }

  /** Leaves the page for the provider. */
  async redirect(isSilent: boolean): Promise<void> {
    const { authorization_endpoint: endpoint } = this.#server;
    if (endpoint === undefined) throw new Error("the provider has no authorization endpoint");
    const attempt = {
      state: oauth.generateRandomState(),
      nonce: oauth.generateRandomNonce(),
      verifier: oauth.generateRandomCodeVerifier(),
      isSilent,
      hash: location.hash,
    };
    const url = new URL(endpoint);
    const parameters = {
      client_id: this.#config.client_id,
      redirect_uri: pageAddress(),
      response_type: "code",
      scope: this.#config.scope,
      state: attempt.state,
      nonce: attempt.nonce,
      code_challenge: await oauth.calculatePKCECodeChallenge(attempt.verifier),
      code_challenge_method: "S256",
      ...(isSilent ? { prompt: "none" } : {}),
    };
    for (const [name, value] of Object.entries(parameters)) url.searchParams.set(name, value);
    if (!keepAttempt(attempt)) {
      throw new SignInFailed("This browser does not allow this page to store data.", "Allow it, and try again.");
    }
    // With a silent redirect in its history, the browser's Back button would sign in again.
    if (isSilent) location.replace(url);
    else location.assign(url);
  }

  /** Exchanges the provider's answer for tokens. */
  async complete({ parameters, attempt }: Callback): Promise<Tokens> {
    if (attempt === null || parameters.get("state") !== attempt.state) throw OUTDATED;
    const valid = oauth.validateAuthResponse(this.#server, this.#client, parameters, attempt.state);
    const answer = await oauth.authorizationCodeGrantRequest(
      this.#server,
      this.#client,
      oauth.None(),
      valid,
      pageAddress(),
      attempt.verifier,
      optionsOf(this.#config),
    );
    const result = await oauth.processAuthorizationCodeResponse(this.#server, this.#client, answer, {
      expectedNonce: attempt.nonce,
      requireIdToken: true,
    });
    return this.#tokens(result, null);
  }

  /** Exchanges the refresh token for new tokens of the same user. */
  async refresh(tokens: Tokens, refreshToken: string): Promise<Tokens> {
    const answer = await oauth.refreshTokenGrantRequest(
      this.#server,
      this.#client,
      oauth.None(),
      refreshToken,
      optionsOf(this.#config),
    );
    const result = await oauth.processRefreshTokenResponse(this.#server, this.#client, answer);
    return this.#tokens(result, tokens);
  }

  /** The address at which the user ends the session at the provider; null if it has none. */
  logoutAddress(tokens: Tokens): string | null {
    const { end_session_endpoint: endpoint } = this.#server;
    if (endpoint === undefined) return null;
    const url = new URL(endpoint);
    url.searchParams.set("client_id", this.#config.client_id);
    url.searchParams.set("id_token_hint", tokens.idToken);
    url.searchParams.set("post_logout_redirect_uri", pageAddress());
    return url.href;
  }

  #tokens(result: oauth.TokenEndpointResponse, before: Tokens | null): Tokens {
    const idClaims = oauth.getValidatedIdTokenClaims(result);
    const idToken = result.id_token ?? before?.idToken;
    const usesId = this.#config.token === "id_token";
    const bearer = usesId ? result.id_token : result.access_token;
    const claims = bearer === undefined ? null : claimsOf(bearer);
    if (bearer === undefined || idToken === undefined || claims === null) {
      throw new SignInFailed(
        "The sign-in service gave no token that this page can use.",
        "Tell the people who run this page.",
      );
    }
    if (before !== null && claims.sub !== before.subject) throw new Error("the token is for another user");
    const expiresIn = result.expires_in ?? 0;
    return {
      bearer,
      endsAt: claims.exp === undefined ? Date.now() + expiresIn * 1000 : claims.exp * 1000 - this.#config.clockSkew,
      subject: claims.sub,
      name: nameIn(idClaims) ?? before?.name ?? claims.sub,
      idToken,
      // A provider that rotates refresh tokens sends a new one each time, and others send none.
      refresh: result.refresh_token ?? before?.refresh ?? null,
    };
  }
}

function nameIn(claims: oauth.IDToken | undefined): string | null {
  for (const claim of ["name", "preferred_username", "email"]) {
    const value = claims?.[claim];
    if (typeof value === "string" && value.trim()) return value;
  }
  return null;
}

function optionsOf({ issuer }: OidcConfig) {
  return {
    signal: () => AbortSignal.timeout(ANSWER_WITHIN),
    // The server accepts an issuer without TLS in development, on its own machine. The name is only marked
    // as deprecated to stand out.
    // eslint-disable-next-line @typescript-eslint/no-deprecated
    [oauth.allowInsecureRequests]: issuer.toLowerCase().startsWith("http:"),
  };
}
