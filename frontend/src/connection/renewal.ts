/**
 * Renews the token of a connection in place.
 *
 * The server warns a minute before the token ends, and warns again at once if the new token ends as
 * soon. The schedule decides when to ask the application, so an answer cannot drive a loop.
 */

import { RenewalSchedule } from "../core/renewal.js";
import type { ErrorBody } from "../protocol/messages.js";
import { OpeningError } from "./opening.js";
import type { NamedTimers } from "./timers.js";

const WARNING = 60_000; // ms before its end that the server warns about a token

export interface RenewalOwner {
  /** The application's token, or null if it has no `getToken`. Rejects with `OpeningError`. */
  obtainToken(): Promise<string | null>;
  isSameUser(token: string): boolean;
  /** Sends a token on the current line. Returns the correlation id. */
  sendToken(token: string): string;
  /** The token is for another user, who needs another connection. */
  userChanged(): void;
  failed(error: ErrorBody): void;
  /** From 0 up to 1. */
  random(): number;
}

export class Renewal {
  readonly #timers: NamedTimers;
  readonly #owner: RenewalOwner;
  readonly #schedule = new RenewalSchedule();
  #endsAt: number | null = null;
  #sentId: string | null = null;
  #isAsking = false;
  #line = 0;

  constructor(timers: NamedTimers, owner: RenewalOwner) {
    this.#timers = timers;
    this.#owner = owner;
  }

  /** When the token ends, in ms since 1970, from the server's warning until a longer one is accepted. */
  get endsAt(): number | null {
    return this.#endsAt;
  }

  /** The server warned that the token ends at this time. */
  expiring(endsAt: number): void {
    this.#endsAt = endsAt;
    this.#plan();
  }

  /** The server accepted a token that ends at this time. */
  accepted(id: string | undefined, endsAt: number): void {
    if (id === undefined || id !== this.#sentId) return;
    const lasts = endsAt - this.#timers.now();
    this.#schedule.accepted(lasts);
    if (lasts > WARNING) {
      this.#endsAt = null;
      this.#timers.cancel("renewal");
    } else {
      this.#endsAt = endsAt;
    }
  }

  /** The line ended: the next one is opened with a token of its own. */
  stop(): void {
    this.#line += 1;
    this.#endsAt = null;
    this.#sentId = null;
    this.#isAsking = false;
    this.#timers.cancel("renewal");
  }

  /** Plans the next attempt, unless one is planned or under way. */
  #plan(): void {
    if (this.#endsAt === null || this.#isAsking || this.#timers.has("renewal")) return;
    const delay = this.#schedule.delay(this.#timers.now(), this.#endsAt);
    if (delay === 0) void this.#attempt();
    else this.#timers.set("renewal", delay, () => void this.#attempt());
  }

  async #attempt(): Promise<void> {
    const line = this.#line;
    this.#isAsking = true;
    this.#schedule.started(this.#timers.now(), this.#owner.random());
    try {
      const token = await this.#owner.obtainToken();
      if (line !== this.#line || token === null) return;
      if (!this.#owner.isSameUser(token)) {
        this.#owner.userChanged();
        return;
      }
      this.#sentId = this.#owner.sendToken(token);
    } catch (error) {
      if (!(error instanceof OpeningError)) throw error;
      if (line === this.#line) this.#owner.failed(error.body);
    }
    if (line !== this.#line) return;
    this.#isAsking = false;
    this.#plan();
  }
}
