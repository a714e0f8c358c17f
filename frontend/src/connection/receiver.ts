/** Numbered events: processes each once and in order, acknowledges them, and stores the position. */

import { ACK_WITHIN, EventSequence, type Place } from "../core/sequence.js";
import type { Position, SessionStore } from "../store/session-store.js";
import type { NamedTimers } from "./timers.js";

export class Receiver {
  readonly #timers: NamedTimers;
  readonly #acknowledge: (seq: number) => void;
  readonly #sequence = new EventSequence();
  #store: SessionStore | null = null;
  #session: string | null = null;

  /** @param acknowledge Sends an acknowledgement on the current line, if there is one. */
  constructor(timers: NamedTimers, acknowledge: (seq: number) => void) {
    this.#timers = timers;
    this.#acknowledge = acknowledge;
  }

  get last(): number {
    return this.#sequence.last;
  }

  /** The session, and the last number processed; null before the first connection. */
  get position(): Position | null {
    return this.#session === null ? null : { session: this.#session, last: this.#sequence.last };
  }

  /** Uses a user's store; null if this tab does not lead. */
  use(store: SessionStore | null): void {
    this.#store = store;
    this.#session = null;
  }

  /** The events of a session follow after `seq`. */
  start(session: string, seq: number): void {
    this.#session = session;
    this.#sequence.startAfter(seq);
    if (this.#store !== null) this.#store.position = { session, last: seq };
  }

  place(seq: number, from?: number): Place {
    return this.#sequence.place(seq, from);
  }

  take(seq: number): void {
    this.#sequence.take(seq);
  }

  /** Acknowledges at once if enough events have arrived, else within a second. */
  acknowledge(): void {
    if (!this.#sequence.hasToAcknowledge) return;
    if (this.#sequence.isAckDue) this.#send();
    else if (!this.#timers.has("ack")) this.#timers.set("ack", ACK_WITHIN, () => this.#send());
  }

  savePosition(): void {
    if (this.#store === null || this.#session === null) return;
    // Another tab, or another session, may have written a position since.
    if (this.#store.position?.session !== this.#session) return;
    this.#store.position = { session: this.#session, last: this.#sequence.last };
  }

  #send(): void {
    this.#timers.cancel("ack");
    // Stored first: after a reload the server must not be asked for events that it may have dropped.
    this.savePosition();
    this.#acknowledge(this.#sequence.acknowledge());
  }
}
