/**
 * Which transport the next attempt to connect uses: the WebSocket, or another one while something
 * between the page and the server prevents WebSockets.
 *
 * Only attempts whose failure is unexplained count: an attempt that the server refused shows that
 * the server can be reached. The rules choose only the transport. When an attempt begins, the
 * back-off decides, so no answer can drive a loop here.
 */

import type { Transport } from "./snapshot.js";

/** Milliseconds in which a stream has to deliver its first event: a proxy may collect all of it. */
export const FIRST_EVENT_WITHIN = 5_000;
/** Milliseconds between two attempts to replace a working fallback while nothing happens. */
export const RETURN_EVERY = 600_000;
const RETURN_AFTER = 300_000; // ms: an attempt that is due anyway uses the WebSocket again
const FAILURES = 2; // in a row, of attempts that did not open
const SHORT_LIFE = 15_000; // ms after its opening: a proxy killed the connection at once
const SHORT_LIVES = 3; // in a row

/** After the last transport the first one is tried again. */
const NEXT: Readonly<Record<Transport, Transport>> = {
  websocket: "sse",
  sse: "long-poll",
  "long-poll": "websocket",
};

export class TransportPolicy {
  #transport: Transport = "websocket";
  /** The fallback that a WebSocket replaced, until that one has lasted. */
  #previous: Transport | null = null;
  #hasWorked = false;
  #failures = 0;
  #shortLives = 0;
  /** When a WebSocket was tried last. */
  #triedAt = -Infinity;

  /** @param hasFallback Whether the server and the page offer one. */
  choose(now: number, hasFallback: boolean): Transport {
    return !hasFallback || this.isReturnDue(now) ? "websocket" : this.#transport;
  }

  /** Whether a fallback is in use, and it is time to try the WebSocket again. */
  isReturnDue(now: number): boolean {
    return this.#transport !== "websocket" && now - this.#triedAt >= RETURN_AFTER;
  }

  /** An attempt begins; its results are reported to what this returns. */
  begin(transport: Transport, now: number): TransportAttempt {
    if (transport === "websocket") this.#triedAt = now;
    return new TransportAttempt(this, transport, now);
  }

  /** The server, the network or the application gave a reason why there is no connection. */
  explained(): void {
    this.#failures = 0;
  }

  established(transport: Transport): void {
    this.#failures = 0;
    if (transport !== "websocket") {
      this.#hasWorked = true;
    } else if (this.#transport !== "websocket") {
      this.#previous = this.#transport;
      this.#transport = "websocket";
    }
  }

  /** @param wasLate Whether the stream had enough time for its first event. */
  notOpened(transport: Transport, wasLate: boolean): void {
    if (transport !== this.#transport) return; // a WebSocket that was tried in place of a fallback
    this.#failures += 1;
    if (this.#failures >= FAILURES || (transport === "sse" && wasLate)) this.#use(NEXT[transport]);
  }

  /** A connection ended, and not because the server closed it. */
  lost(transport: Transport, lasted: number, now: number): void {
    if (lasted >= SHORT_LIFE) {
      this.lasted(transport);
      return;
    }
    this.#shortLives += 1;
    if (transport === "websocket" && this.#previous !== null) this.#use(this.#previous);
    else if (this.#shortLives >= SHORT_LIVES) this.#use(NEXT[transport]);
    this.#triedAt = transport === "websocket" ? now : this.#triedAt;
  }

  /** A connection was of use. */
  lasted(transport: Transport): void {
    this.#failures = 0;
    this.#shortLives = 0;
    if (transport === "websocket") this.#previous = null;
  }

  /** The server refused the attempt: so the WebSockets before may have been refused as well. */
  refused(): void {
    this.#failures = 0;
    if (!this.#hasWorked) this.#use("websocket");
  }

  #use(transport: Transport): void {
    this.#hasWorked = transport === this.#previous;
    this.#transport = transport;
    this.#previous = null;
    this.#failures = 0;
    this.#shortLives = 0;
  }
}

/** One attempt to connect, up to the end of its connection. */
export class TransportAttempt {
  readonly #policy: TransportPolicy;
  readonly #startedAt: number;
  #establishedAt: number | null = null;

  constructor(
    policy: TransportPolicy,
    readonly transport: Transport,
    now: number,
  ) {
    this.#policy = policy;
    this.#startedAt = now;
  }

  established(now: number): void {
    this.#establishedAt = now;
    this.#policy.established(this.transport);
  }

  /** @param byServer Whether the server said why. */
  ended(now: number, byServer: boolean): void {
    const since = this.#establishedAt;
    if (since !== null && byServer) this.#policy.lasted(this.transport);
    else if (since !== null) this.#policy.lost(this.transport, now - since, now);
    else if (byServer) this.#policy.refused();
    else this.#policy.notOpened(this.transport, now - this.#startedAt >= FIRST_EVENT_WITHIN);
  }
}
