/** This tab's right to the connection: at once where tabs don't share, else in its turn. */

import type { Seat } from "../connection/connection.js";
import type { Cancel, Ports } from "../ports.js";
import { seatName } from "../core/names.js";
import type { Role } from "../core/snapshot.js";
import { Store } from "../store/session-store.js";
import { canShare, Tabs, type TabMessage } from "./channel.js";

interface Current {
  readonly tabs: Tabs | null;
  readonly leave: Cancel;
  store: Store | null;
  seat: Promise<Seat>;
}

export class Seats {
  readonly #ports: Ports;
  readonly #address: string;
  readonly #shares: boolean;
  readonly #heard: (message: TabMessage) => void;
  readonly #lost: () => void;
  #current: Current | null = null;

  constructor(
    ports: Ports,
    address: string,
    shares: boolean,
    heard: (message: TabMessage) => void,
    lost: () => void,
  ) {
    this.#ports = ports;
    this.#address = address;
    this.#shares = shares;
    this.#heard = heard;
    this.#lost = lost;
  }

  get role(): Role {
    const current = this.#current;
    if (current === null || current.tabs === null) return "alone";
    return current.store === null ? "follower" : "holder";
  }

  /** Whether this tab may connect, and has the outbox. */
  get hasTurn(): boolean {
    return this.#current !== null && this.#current.store !== null;
  }

  /** The channel to the other tabs, where there are any. */
  get tabs(): Tabs | null {
    return this.#current?.tabs ?? null;
  }

  /** Settles when this tab has its turn; never, where it leaves before that. */
  take(subject: string | null): Promise<Seat> {
    const current = this.#current;
    if (current === null) return this.#join(subject);
    return current.store === null
      ? current.seat
      : Promise.resolve({ store: current.store, waited: false });
  }

  leave(): void {
    const current = this.#current;
    this.#current = null;
    current?.leave();
  }

  /** Drops what is stored for a user. */
  drop(subject: string | null): void {
    const { shared, tab } = this.#ports;
    for (const storage of [shared, tab]) new Store(storage, this.#name(subject)).drop();
  }

  #name(subject: string | null): string {
    return seatName(this.#address, subject ?? "?");
  }

  #join(subject: string | null): Promise<Seat> {
    const ports = this.#ports;
    const name = this.#name(subject);
    // A token that tells no user names nothing that tabs could agree on.
    if (!this.#shares || subject === null || !canShare(ports)) {
      const store = new Store(ports.tab, name);
      const leave = store.claim(ports);
      const seat = Promise.resolve({ store, waited: false });
      this.#current = { tabs: null, store, leave, seat };
      return seat;
    }
    let granted: (seat: Seat) => void = () => undefined;
    const seat = new Promise<Seat>((resolve) => {
      granted = resolve;
    });
    const tabs = new Tabs(
      ports,
      name,
      () => {
        // Read only now: until this moment another tab wrote there.
        current.store = new Store(ports.shared, name);
        tabs.post({ kind: "holder" });
        granted({ store: current.store, waited: tabs.hasFollowed });
      },
      () => {
        if (this.#current === current) this.#lost();
      },
      (message) => {
        if (this.#current === current) this.#heard(message);
      },
    );
    const current: Current = { tabs, store: null, leave: () => tabs.close(), seat };
    this.#current = current;
    tabs.post({ kind: "hello", from: tabs.id });
    return seat;
  }
}
