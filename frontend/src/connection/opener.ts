/**
 * Prepares one attempt to connect: a token, the leadership for its user, the configuration, and the
 * address of the socket.
 */

import type { ServerConfig } from "../protocol/discovery.js";
import { subjectOf } from "../core/names.js";
import { localError, TOKEN_REFUSED } from "../core/retry-rules.js";
import type { TransportAttempt, TransportPolicy } from "../core/transports.js";
import type { Ports, Socket } from "../ports.js";
import type { Position, SessionStore } from "../store/session-store.js";
import type { Leadership } from "../tabs/leader.js";
import type { FallbackSocket } from "./fallback.js";
import { discover, eventsEndpoints, obtainToken, OpeningError, openSocket, serverAddress, socketAddress, type GetToken } from "./opening.js";

/** Begins to open a socket. Throws `OpeningError`. */
export type OpenSocket = () => { readonly socket: Socket; readonly attempt: TransportAttempt };

export interface OpenerOwner {
  /** Waits until this tab may connect as this user; null for a token that names no user. */
  lead(subject: string | null): Promise<Leadership>;
  /** This tab leads, and its user's data is in this store. */
  leads(store: SessionStore): void;
  /** The position up to which this tab has seen every event. */
  position(): Position | null;
  configured(config: ServerConfig): void;
}

interface Attempt {
  /** Whether a newer attempt has begun. */
  readonly isStale: () => boolean;
  /** The last token that was tried. */
  token: string | null;
}

export class Opener {
  readonly #ports: Ports;
  readonly #url: string | undefined;
  readonly #getToken: GetToken | null;
  readonly #policy: TransportPolicy;
  readonly #owner: OpenerOwner;
  /** The newest token of the user of the last attempt. */
  #token: string | null = null;
  #config: ServerConfig | null = null;
  /** The user of the last attempt; undefined before the first. */
  #subject: string | null | undefined;
  #refused: { readonly token: string | null; readonly error: OpeningError } | null = null;

  constructor(ports: Ports, url: string | undefined, getToken: GetToken | null, policy: TransportPolicy, owner: OpenerOwner) {
    this.#ports = ports;
    this.#url = url;
    this.#getToken = getToken;
    this.#policy = policy;
    this.#owner = owner;
  }

  /** Whether a token is for the user of the last attempt. */
  isSameUser(token: string): boolean {
    return userOf(token) === this.#subject;
  }

  /** Reads the configuration again before the next attempt: the last one may be outdated. */
  forgetConfig(): void {
    this.#config = null;
  }

  /**
   * Returns a function that begins to open the socket, or null if a newer attempt has begun.
   *
   * @param isRejoining Whether this tab only waits for its next leadership: then it waits as the
   *   user of the last attempt, and does not try a refused token again.
   */
  async open(isStale: () => boolean, isRejoining: boolean): Promise<OpenSocket | null> {
    const attempt: Attempt = { isStale, token: null };
    try {
      return await this.#prepare(attempt, isRejoining ? this.#subject : undefined);
    } catch (error) {
      if (error instanceof OpeningError && !isStale()) {
        this.forgetConfig();
        this.#policy.explained();
        this.#refused = TOKEN_REFUSED.has(error.body.code) ? { token: attempt.token, error } : null;
      }
      throw error;
    }
  }

  /**
   * Likewise for another socket for the user of the last attempt, while one is open.
   *
   * @param readPosition Called as late as possible.
   */
  async reopen(isStale: () => boolean, readPosition: () => Position | null): Promise<OpenSocket | null> {
    const token = await this.obtainToken();
    if (isStale()) return null;
    return this.#address({ isStale, token: token === null ? null : this.#ofSameUser(token) }, readPosition);
  }

  async obtainToken(): Promise<string | null> {
    if (this.#getToken === null) return null;
    const token = await obtainToken(() => this.#ports.timers.now(), this.#getToken);
    if (this.isSameUser(token)) this.#token = token;
    return token;
  }

  async #prepare(attempt: Attempt, knownSubject: string | null | undefined): Promise<OpenSocket | null> {
    const store = await this.#lead(attempt, knownSubject);
    if (store === null) return null;
    const { token } = attempt;
    // No call asked for this attempt, and the same token would be refused again.
    if (knownSubject !== undefined && token === this.#refused?.token) throw this.#refused.error;
    return this.#address(attempt, () => this.#position(store));
  }

  async #address(attempt: Attempt, readPosition: () => Position | null): Promise<OpenSocket | null> {
    const { token } = attempt;
    const server = serverAddress(this.#ports, this.#url);
    if (this.#config === null) {
      const config = await discover(this.#ports, server);
      if (attempt.isStale()) return null;
      this.#config = config;
      this.#owner.configured(config);
    }
    const config = this.#config;
    if (token === null && config.features.auth_required) throw this.#needsToken();
    const freshToken = async (): Promise<string> => {
      attempt.token = this.#ofSameUser((await this.obtainToken()) ?? "");
      return attempt.token;
    };
    this.#token = token;
    const ports = this.#ports;
    const policy = this.#policy;
    const endpoints = eventsEndpoints(ports, server, config);
    const transport = policy.choose(ports.timers.now(), endpoints !== null);
    if (transport === "websocket" || endpoints === null) {
      const address = await socketAddress(ports, server, config, null, token, freshToken, readPosition);
      return () => ({ socket: openSocket(ports, address), attempt: policy.begin("websocket", ports.timers.now()) });
    }
    const Fallback = await this.#loadFallback();
    const address = await socketAddress(ports, server, config, endpoints.stream, token, freshToken, readPosition);
    const events = { ...address, ...endpoints, transport, token: () => this.#token };
    return () => ({
      socket: new Fallback(ports, events),
      attempt: policy.begin(transport, ports.timers.now()),
    });
  }

  /** Most pages never need this code. */
  async #loadFallback(): Promise<typeof FallbackSocket> {
    try {
      return (await import("./fallback.js")).FallbackSocket;
    } catch {
      const help = "Nothing to do: the client tries again.";
      throw new OpeningError(localError(this.#ports.timers.now(), "NO_ANSWER", "A part of the page is missing.", help), true);
    }
  }

  /** Obtains a token and waits for the leadership of its user; null if the attempt is stale. */
  async #lead(attempt: Attempt, knownSubject: string | null | undefined): Promise<SessionStore | null> {
    let hasToken = knownSubject === undefined;
    if (hasToken) attempt.token = await this.obtainToken();
    let subject = knownSubject === undefined ? userOf(attempt.token) : knownSubject;
    for (;;) {
      if (attempt.isStale()) return null;
      this.#subject = subject;
      const { store, hasFollowed } = await this.#owner.lead(subject);
      if (attempt.isStale()) return null;
      this.#owner.leads(store);
      if (!hasFollowed && hasToken) return store;
      hasToken = true;
      attempt.token = await this.obtainToken();
      if (attempt.isStale()) return null;
      // Another user may have logged in while this tab waited: then the leadership is not theirs.
      if (userOf(attempt.token) === subject) return store;
      subject = userOf(attempt.token);
    }
  }

  #ofSameUser(token: string): string {
    if (this.isSameUser(token)) return token;
    const help = "Nothing to do: the client connects as the new user.";
    const error = "The token is for another user than before.";
    throw new OpeningError(localError(this.#ports.timers.now(), "USER_CHANGED", error, help), true);
  }

  #needsToken(): OpeningError {
    const now = this.#ports.timers.now();
    const help = "Give the client a getToken function.";
    return new OpeningError(localError(now, "AUTH_REQUIRED", "The server requires a token.", help, false), false);
  }

  /** The position of this tab is newer than the stored one if both are of the same session. */
  #position(store: SessionStore): Position | null {
    const seen = this.#owner.position();
    const stored = store.position;
    return seen !== null && (stored === null || seen.session === stored.session) ? seen : stored;
  }
}

/** Without tokens there is one user, ""; a token that names no user gives null. */
const userOf = (token: string | null): string | null => (token === null ? "" : subjectOf(token));
