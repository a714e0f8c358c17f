/**
 * Leader election among the tabs of one user: the tab that holds a lock has the connection.
 *
 * The browser releases a lock when its tab closes or crashes, and grants it to the next tab in line.
 * Chrome neither freezes nor discards a tab that holds a lock. Other browsers may: a follower takes
 * the lock from a leader that does not answer.
 */

import { sessionName } from "../core/names.js";
import type { Role } from "../core/snapshot.js";
import type { Cancel, Locks, Ports } from "../ports.js";
import { SessionStore } from "../store/session-store.js";
import { TabChannel, type TabMessage } from "./channel.js";

/** The right of a tab to connect. */
export interface Leadership {
  readonly store: SessionStore;
  /** Another tab led in the meantime: a token from before may be outdated. */
  readonly hasFollowed: boolean;
}

export interface ElectionEvents {
  received(message: TabMessage): void;
  /** Another tab has taken the leadership away. */
  lost(): void;
  /** From now on a leader can detect the end of this tab. */
  present(): void;
}

const VERSION = 6; // of the messages between tabs: pages of different versions do not mix

type SharingPorts = Ports & {
  readonly locks: Locks;
  readonly openChannel: NonNullable<Ports["openChannel"]>;
};

const canShare = (ports: Ports): ports is SharingPorts =>
  ports.locks !== undefined && ports.openChannel !== undefined;

/** This tab's part in the election among the tabs of one user. */
interface Candidacy {
  readonly channel: TabChannel | null;
  readonly leadership: Promise<Leadership>;
  readonly steal: () => void;
  readonly leave: Cancel;
  /** Calls back when another tab has ended. */
  readonly watch: (tab: string, gone: () => void) => Cancel;
  isPresent: boolean;
  store: SessionStore | null;
  hasFollowed: boolean;
}

export class LeaderElection {
  readonly #ports: Ports;
  readonly #address: string;
  readonly #isShared: boolean;
  readonly #events: ElectionEvents;
  #current: Candidacy | null = null;

  constructor(ports: Ports, address: string, isShared: boolean, events: ElectionEvents) {
    this.#ports = ports;
    this.#address = address;
    this.#isShared = isShared;
    this.#events = events;
  }

  get role(): Role {
    const current = this.#current;
    if (current === null || current.channel === null) return "alone";
    return current.store === null ? "follower" : "leader";
  }

  /** Whether this tab may connect, and has the outbox; also true for a tab that does not share. */
  get isLeader(): boolean {
    return this.#current !== null && this.#current.store !== null;
  }

  /** The channel to the other tabs, if there are any. */
  get channel(): TabChannel | null {
    return this.#current?.channel ?? null;
  }

  /** Whether a leader can detect the end of this tab. */
  get isPresent(): boolean {
    return this.#current?.isPresent === true;
  }

  /** Calls back when another tab of this user has ended: closed, crashed, or no longer in the group. */
  watch(tab: string, gone: () => void): Cancel {
    return this.#current?.watch(tab, gone) ?? (() => undefined);
  }

  /** Settles once this tab leads; never, if it leaves before that. */
  join(subject: string | null): Promise<Leadership> {
    const current = this.#current;
    if (current === null) return this.#enter(subject);
    if (current.store === null) return current.leadership;
    return Promise.resolve({ store: current.store, hasFollowed: false });
  }

  /** Another tab leads. */
  followed(): void {
    if (this.#current !== null) this.#current.hasFollowed = true;
  }

  /** Takes the leadership from a tab that does not answer. */
  steal(): void {
    this.#current?.steal();
  }

  leave(): void {
    const current = this.#current;
    this.#current = null;
    current?.leave();
  }

  /** Deletes the stored session and outbox of a user. */
  drop(subject: string | null): void {
    const { shared, tab } = this.#ports;
    for (const storage of [shared, tab]) new SessionStore(storage, this.#name(subject)).drop();
  }

  #name(subject: string | null): string {
    return sessionName(this.#address, subject ?? "?");
  }

  #enter(subject: string | null): Promise<Leadership> {
    const ports = this.#ports;
    // Without a user's name tabs cannot know whether they belong to the same user.
    const canJoin = this.#isShared && subject !== null && canShare(ports);
    this.#current = canJoin ? this.#compete(ports, this.#name(subject)) : this.#lone(this.#name(subject));
    this.#current.channel?.post({ kind: "join", from: this.#current.channel.id });
    return this.#current.leadership;
  }

  #lone(name: string): Candidacy {
    const store = new SessionStore(this.#ports.tab, name);
    const leave = store.claim(this.#ports);
    const leadership = Promise.resolve({ store, hasFollowed: false });
    const none = (): void => undefined;
    const watch = (): Cancel => none;
    return { channel: null, leadership, steal: none, leave, watch, isPresent: false, store, hasFollowed: false };
  }

  #compete(ports: SharingPorts, name: string): Candidacy {
    const versioned = `${name}:${VERSION}`;
    let lead: (leadership: Leadership) => void = () => undefined;
    const leadership = new Promise<Leadership>((resolve) => {
      lead = resolve;
    });
    const channel = new TabChannel(ports, versioned, (message) => {
      if (this.#current === current) this.#events.received(message);
    });
    const granted = (): void => {
      // Read only now: until this moment another tab wrote to the store.
      current.store = new SessionStore(ports.shared, name);
      channel.post({ kind: "leader" });
      lead({ store: current.store, hasFollowed: current.hasFollowed });
    };
    const lost = (): void => {
      if (this.#current === current) this.#events.lost();
    };
    // Each tab holds a lock of its own: another tab gets it only after the end of this one.
    const present = (): void => {
      current.isPresent = true;
      if (this.#current === current) this.#events.present();
    };
    const lockOf = (tab: string): string => `${versioned}:${tab}`;
    const vanish = ports.locks.request(lockOf(channel.id), present, () => undefined);
    let release = ports.locks.request(versioned, granted, lost);
    const current: Candidacy = {
      channel,
      leadership,
      steal: () => {
        release();
        release = ports.locks.steal(versioned, granted, lost);
      },
      leave: () => {
        // The channel first: the next leader's messages are not for this tab.
        channel.close();
        release();
        vanish();
      },
      watch: (tab, gone) => {
        const cancel = ports.locks.request(
          lockOf(tab),
          () => {
            cancel();
            gone();
          },
          () => undefined,
        );
        return cancel;
      },
      isPresent: false,
      store: null,
      hasFollowed: false,
    };
    return current;
  }
}
