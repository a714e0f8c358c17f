/**
 * Many tabs, one socket: the tab that holds the lock has it, and tells the others what happens.
 *
 * The lock is the browser's, so its holder is never in doubt: when that tab closes or crashes the
 * next one in line is granted. What tabs tell each other:
 *
 *     a tab that joins     hello →           the holder answers `sync` with all it shows
 *     the holder           holder, state, note, accepted, written
 *     any other tab        submit, control, please
 *
 * A follower keeps what it handed in until the holder has accepted it, and hands it in again to the
 * next holder; keys make that harmless. Chrome neither freezes nor discards a tab with a lock; other
 * browsers may, and a follower that asks such a holder in vain takes its turn away.
 */

import { isObject } from "../protocol/check.js";
import type { Cancel, Channel, Locks, Ports } from "../ports.js";
import type { ErrorBody } from "../protocol/messages.js";
import type { Control, EngineState } from "../connection/connection.js";
import type { Entry } from "../core/outbox.js";
import type { Note, ViewState } from "../store/view.js";

/** What became of a message, for tabs that were not listening when it did. */
export interface Settled {
  readonly key: string;
  readonly ok: boolean;
  readonly error: ErrorBody | null;
}

export type Wish = "connect" | "forceReconnect" | "wake" | "clearError";

export type TabMessage =
  | { readonly kind: "hello"; readonly from: string }
  | { readonly kind: "holder" }
  | {
      readonly kind: "sync";
      readonly to: string;
      readonly view: ViewState;
      readonly state: EngineState;
      /** Keys in the outbox. */
      readonly waiting: readonly string[];
      readonly settled: readonly Settled[];
    }
  | { readonly kind: "state"; readonly state: EngineState }
  | { readonly kind: "note"; readonly note: Note }
  | { readonly kind: "submit"; readonly entry: Entry }
  | { readonly kind: "accepted"; readonly key: string }
  | { readonly kind: "control"; readonly id: string; readonly message: Control }
  | { readonly kind: "written"; readonly id: string }
  | { readonly kind: "please"; readonly wish: Wish };

const VERSION = 1; // of these messages: tabs with different versions of a page don't mix

type SharingPorts = Ports & {
  readonly locks: Locks;
  readonly openChannel: NonNullable<Ports["openChannel"]>;
};

export const canShare = (ports: Ports): ports is SharingPorts =>
  ports.locks !== undefined && ports.openChannel !== undefined;

export class Tabs {
  readonly id: string;
  /** Whether another tab had the connection while this one was waiting. */
  hasFollowed = false;
  readonly #channel: Channel;
  readonly #stealLock: () => Cancel;
  #release: Cancel;

  /**
   * @param name Of lock and channel.
   * @param granted Called once, when this tab's turn has come, and not from within here.
   * @param lost Called when another tab has taken the turn away.
   */
  constructor(
    ports: SharingPorts,
    name: string,
    granted: () => void,
    lost: () => void,
    heard: (message: TabMessage) => void,
  ) {
    this.id = ports.uniqueId();
    const versioned = `${name}:${VERSION}`;
    this.#stealLock = () => ports.locks.steal(versioned, granted, lost);
    this.#channel = ports.openChannel(versioned, (message) => {
      // Same origin, same version: its form needs no check beyond this.
      if (isObject(message) && "kind" in message) heard(message as unknown as TabMessage);
    });
    this.#release = ports.locks.request(versioned, granted, lost);
  }

  /** Takes the turn now, from a holder that does not answer. */
  steal(): void {
    this.#release();
    this.#release = this.#stealLock();
  }

  post(message: TabMessage): void {
    this.#channel.post(message);
  }

  close(): void {
    // The channel first: whoever is granted next must not hear this tab any more.
    this.#channel.close();
    this.#release();
  }
}
