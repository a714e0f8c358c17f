/**
 * Settles what waits for a connection while the client makes no attempt to connect: before
 * `connect`, after `disconnect`, and after an error that ended the attempts.
 *
 * It waits a few seconds: an application may send before it connects, or connect again at once.
 */

import type { Status } from "../core/snapshot.js";
import type { Cancel, Timers } from "../ports.js";

const SETTLE_AFTER = 5_000; // ms

const IDLE: ReadonlySet<Status> = new Set(["DISCONNECTED", "ERROR"]);

export interface UnattendedOwner {
  /** Whether a promise waits. */
  isWaiting(): boolean;
  status(): Status;
  /** Settles all promises. */
  settle(): void;
}

export class Unattended {
  readonly #timers: Timers;
  readonly #owner: UnattendedOwner;
  #cancel: Cancel | null = null;

  constructor(timers: Timers, owner: UnattendedOwner) {
    this.#timers = timers;
    this.#owner = owner;
  }

  /** The status, or what waits, may have changed. */
  check(): void {
    if (!this.#owner.isWaiting() || !IDLE.has(this.#owner.status())) {
      this.#cancel?.();
      this.#cancel = null;
    } else {
      this.#cancel ??= this.#timers.setTimeout(() => {
        this.#cancel = null;
        this.#owner.settle();
      }, SETTLE_AFTER);
    }
  }
}
