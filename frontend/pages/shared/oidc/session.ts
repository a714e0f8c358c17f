// The tokens of a user who has signed in at a provider: in memory only, and renewed in time.

import * as oauth from "oauth4webapi";
import { codeOf, isSilence } from "./problems.ts";
import type { Provider, Tokens } from "./provider.ts";

const SPARE = 75_000; // ms left: the server asks for a new token a minute before the end
const GAP = 4_000; // ms between two renewals, whatever the lifetime of a token

export class OidcSession {
  readonly #provider: Pick<Provider, "refresh" | "logoutAddress">;
  #tokens: Tokens;
  #renewal: Promise<void> | null = null;
  #renewedAt = Date.now();
  #canRenew: boolean;

  constructor(provider: Pick<Provider, "refresh" | "logoutAddress">, tokens: Tokens) {
    this.#provider = provider;
    this.#tokens = tokens;
    this.#canRenew = tokens.refresh !== null;
  }

  get subject(): string {
    return this.#tokens.subject;
  }

  get name(): string {
    return this.#tokens.name;
  }

  /** The address that ends the session at the provider too; null if it has none. */
  get logoutAddress(): string | null {
    return this.#provider.logoutAddress(this.#tokens);
  }

  /** The token for the server; a new one if the current one ends soon and can be renewed. */
  readonly token = async (): Promise<string> => {
    if (this.#renewal === null && this.#isDue()) this.#renewal = this.#renew();
    await this.#renewal;
    return this.#tokens.bearer;
  };

  #isDue(): boolean {
    const now = Date.now();
    // A clock that was set back must not stop the renewal.
    const isSpaced = Math.abs(now - this.#renewedAt) >= GAP;
    return this.#canRenew && isSpaced && this.#tokens.endsAt - now <= SPARE;
  }

  /** Never rejects: without a new token, the server tells the user that the current one ends. */
  async #renew(): Promise<void> {
    this.#renewedAt = Date.now();
    try {
      this.#tokens = await this.#provider.refresh(this.#tokens, this.#tokens.refresh ?? "");
    } catch (error) {
      // An answer is final: the refresh token has ended, or gives no token that can be used.
      const isFinal = error instanceof oauth.ResponseBodyError ? error.status < 500 : !isTransient(error);
      if (isFinal) this.#canRenew = false;
    } finally {
      this.#renewal = null;
    }
  }
}

/** Whether there was no answer, or only one of a server in trouble. */
const isTransient = (error: unknown): boolean =>
  error instanceof DOMException || isSilence(error) || codeOf(error) === oauth.RESPONSE_IS_NOT_CONFORM;
