/**
 * Replaces a line while it is open, because its server is about to close it.
 *
 * After `server_draining` the next socket is opened first ("make before break"), so that another
 * server can continue the session at once. Nothing is lost, doubled or reordered, because at each
 * moment events are taken from one socket only:
 *
 * - Right before the socket is created, the old line begins to hold back its events. `last_seq` is
 *   the last number that was taken. The request acknowledges up to there and no further, so the
 *   server keeps what comes later, and sends it again on the new socket. Events that were taken
 *   after the request would come twice, or inside a merged event, which cannot be taken apart.
 * - Control frames have no number and no order. The old line goes on with them, so heartbeats are
 *   answered, and requests and tokens are sent. An acknowledgement there is never above `last_seq`,
 *   because nothing above it was taken.
 * - The first frame of the new socket decides. In one step the old line ends, what it held back is
 *   dropped, and everything unanswered is sent again on the new line, under the same keys.
 * - If the attempt fails, what was held back is taken in order, and the old line goes on as if
 *   nothing had happened. The next attempt follows after a back-off.
 * - If the old line is closed meanwhile, what it held back is dropped, and the attempt goes on: it
 *   is the ordinary reconnection then.
 *
 * The server tells its clients different times, so that they don't all come at once. A message that it
 * does not accept would wait as long, so it starts the first attempt at once. That happens once for a
 * line, and not while pauses are due: neither refusals nor servers that drain one after the other
 * drive a loop.
 *
 * A browser does not report why a socket did not open, so each attempt may have reached the server.
 * Then the old line is closed as taken over (4409), by this client's own doing: the client
 * reconnects, as after any other loss.
 *
 * A server that does not know the session answers `reset`, for instance a new process that shares
 * nothing with the old one. That ends no run of the old server: while a run is not over, the client
 * stays where it is, until the old server closes the line.
 */

import { fullJitter } from "../core/backoff.js";
import { TAKEN_OVER } from "../core/retry-rules.js";
import type { ServerMessageOf } from "../protocol/messages.js";
import type { Ports } from "../ports.js";
import { Line, type LineEvents } from "./line.js";
import type { Opener, OpenSocket } from "./opener.js";
import { OpeningError } from "./opening.js";
import type { Receiver } from "./receiver.js";
import { SHORTEST_GAP, type RetryTimer } from "./retry.js";
import { NamedTimers } from "./timers.js";

const LASTED = 30_000; // ms: a line that lasted so long was of use, although no event came

type Established = ServerMessageOf<"connection_established">;

export interface SwitchOwner {
  /** The events of the current line. */
  events(): LineEvents;
  /** Whether a run is not over. */
  hasRuns(): boolean;
  /** The line is the current one from now on. */
  replace(line: Line, message: Established): void;
}

export class Switch {
  readonly #ports: Ports;
  readonly #interval: number;
  readonly #opener: Opener;
  readonly #receiver: Receiver;
  readonly #retry: RetryTimer;
  readonly #owner: SwitchOwner;
  readonly #timers: NamedTimers;
  #attempt = 0;
  #startedAt = 0;
  /** Failed attempts to replace the current line. */
  #failures = 0;
  /** Lines in a row that were of no use before they had to be replaced. */
  #useless = 0;
  #plannedAt = 0;
  /** The last number at that time. */
  #last = 0;
  /** When the server wants the next line of an idle client at the earliest. */
  #notBefore = 0;
  /** Whether the first attempt only waits for that time. */
  #mayTryNow = false;
  /** Whether the old line can stay if the attempt fails. */
  #isOptional = false;
  #old: Line | null = null;
  #next: Line | null = null;
  #isUncertain = false;

  /** @param interval The bound of the first pause, in ms. */
  constructor(
    ports: Ports,
    interval: number,
    opener: Opener,
    receiver: Receiver,
    retry: RetryTimer,
    owner: SwitchOwner,
  ) {
    this.#ports = ports;
    this.#interval = interval;
    this.#opener = opener;
    this.#receiver = receiver;
    this.#retry = retry;
    this.#owner = owner;
    this.#timers = new NamedTimers(ports.timers);
  }

  /** The server is about to close this line: replaces it, not before so many ms if this client is idle. */
  plan(line: Line | null, ms: number): void {
    this.#retry.postpone(ms);
    // A server that gets no acknowledgements keeps only its last events.
    if (line?.acknowledges !== true || (this.#old === line && !this.#isOptional)) return;
    this.#old = line;
    this.#isOptional = false;
    const { last } = this.#receiver;
    const now = this.#ports.timers.now();
    const wasOfUse = last !== this.#last || now - this.#plannedAt >= LASTED;
    this.#useless = wasOfUse ? 0 : this.#useless + 1;
    this.#plannedAt = now;
    this.#last = last;
    this.#notBefore = now + ms;
    this.#wait(ms, this.#useless);
    this.#mayTryNow = this.#useless === 0;
  }

  /** Tries once to replace this line, which is idle and can stay. */
  tryOnce(line: Line | null): void {
    if (line?.acknowledges !== true || this.#old !== null) return;
    this.#old = line;
    this.#isOptional = true;
    void this.#try();
  }

  /** A message waits for the next line: the first attempt does not wait for the server's time. */
  tryNow(): void {
    if (this.#mayTryNow) this.#wait(0, 0);
  }

  /** Ends everything: the current line has ended. */
  cancel(): void {
    this.#attempt += 1;
    this.#mayTryNow = false;
    this.#timers.cancelAll();
    this.#next?.end();
    this.#next = this.#old = null;
    this.#failures = 0;
    this.#isUncertain = this.#isOptional = false;
  }

  /** What the close code of the current line means: 1006 if this client itself is the cause. */
  reason(code: number): number {
    return code === TAKEN_OVER && (this.#isUncertain || this.#next !== null) ? 1006 : code;
  }

  /** The current line is closed: returns the line that is being opened, which is not replaced. */
  release(): Line | null {
    const next = this.#next;
    this.#next = null;
    return next;
  }

  #wait(ms: number, failures: number): void {
    const pause = failures === 0 ? 0 : fullJitter(failures, this.#interval, this.#ports.random());
    const gap = Math.min(SHORTEST_GAP, this.#startedAt + SHORTEST_GAP - this.#ports.timers.now());
    this.#timers.set("switch", Math.max(ms, pause, gap), () => void this.#try());
  }

  async #try(): Promise<void> {
    this.#attempt += 1;
    const attempt = this.#attempt;
    const isStale = (): boolean => attempt !== this.#attempt;
    this.#mayTryNow = false;
    this.#startedAt = this.#ports.timers.now();
    this.#next?.end();
    this.#next = null;
    try {
      const openSocket = await this.#opener.reopen(isStale, () => {
        if (!isStale()) this.#old?.hold();
        return this.#receiver.position;
      });
      if (openSocket !== null && !isStale()) this.#connect(openSocket);
    } catch (error) {
      if (isStale()) return;
      if (!(error instanceof OpeningError)) throw error;
      this.#failed(error.retryAfter);
    }
  }

  #connect(openSocket: OpenSocket): void {
    const current = this.#owner.events();
    const ifPending = (run: () => void, otherwise: () => void): void => (this.#next === line ? run() : otherwise());
    const failed = (retryAfter = 0): void => {
      this.#next = null;
      this.#isUncertain = true;
      line.end();
      this.#failed(retryAfter);
    };
    const line: Line = new Line(openSocket(), this.#ports.timers, {
      ...current,
      established: (message) =>
        ifPending(() => this.#established(line, message), () => current.established(message)),
      closed: (code, refusal) =>
        ifPending(() => failed(refusal?.retryAfter), () => current.closed(code, refusal)),
      outOfOrder: (fault) => ifPending(() => failed(), () => current.outOfOrder(fault)),
    });
    this.#next = line;
  }

  #established(line: Line, message: Established): void {
    this.#next = null;
    const { verdict } = message.payload.resume;
    if ((verdict === "reset" || verdict === "new") && this.#owner.hasRuns()) {
      line.end(1000);
      this.#stay();
      return;
    }
    this.#owner.replace(line, message);
  }

  #failed(retryAfter: number): void {
    if (!this.#isOptional) {
      this.#failures += 1;
      this.#wait(Math.max(retryAfter, this.#notBefore - this.#ports.timers.now()), this.#failures);
    }
    this.#stay();
  }

  /** The old line goes on. */
  #stay(): void {
    const old = this.#old;
    if (this.#isOptional) this.#old = null;
    this.#isOptional = false;
    old?.release();
  }
}
