/** The leader's side of the channel: accepts messages of the other tabs, and reports to them. */

import type { OutboxMessage } from "../core/outbox.js";
import type { WantedRoom } from "../core/rooms.js";
import type { ConnectionState } from "../core/snapshot.js";
import type { ControlRequest, ErrorBody } from "../protocol/messages.js";
import type { Cancel } from "../ports.js";
import type { ViewState } from "../store/view.js";
import type { Command, FollowerMessage, LeaderMessage, Settled } from "./channel.js";

export interface LeaderOwner {
  readonly state: ConnectionState;
  readonly view: ViewState;
  readonly queued: readonly string[];
  readonly settled: readonly Settled[];
  /** Accepts a message for the outbox, or reports that it is full. */
  accept(message: OutboxMessage): void;
  /** Sends a request; the error if it cannot be accepted. */
  request(id: string, message: ControlRequest): ErrorBody | null;
  /** All rooms that another tab needs now. */
  want(tab: string, rooms: readonly WantedRoom[]): void;
  execute(command: Command): void;
}

export interface Followers {
  /** Whether this tab still leads. */
  readonly isLeader: boolean;
  post(message: LeaderMessage): void;
  /** Calls back when a tab has ended. */
  watch(tab: string, gone: () => void): Cancel;
}

export class LeaderService {
  readonly #owner: LeaderOwner;
  readonly #followers: Followers;
  /** The tabs that need rooms. */
  readonly #watched = new Map<string, Cancel>();
  #isReporting = false;

  constructor(owner: LeaderOwner, followers: Followers) {
    this.#owner = owner;
    this.#followers = followers;
  }

  received(message: FollowerMessage): void {
    const owner = this.#owner;
    switch (message.kind) {
      case "join": {
        const { view, state, queued, settled } = owner;
        this.#followers.post({ kind: "sync", to: message.from, view, state, queued, settled });
        break;
      }
      case "submit":
        this.#submit(message.message);
        break;
      case "request": {
        const error = owner.request(message.id, message.message);
        if (error !== null) this.#decline(message.id, error);
        this.#report();
        break;
      }
      case "rooms":
        this.#want(message.from, message.rooms);
        this.#report();
        break;
      case "command":
        owner.execute(message.command);
        this.#report();
        break;
    }
  }

  /** This tab does not lead any more. */
  ended(): void {
    for (const cancel of this.#watched.values()) cancel();
    this.#watched.clear();
  }

  /** Reports the state of the connection: once for all changes of the current task. */
  stateChanged(): void {
    if (this.#isReporting) return;
    this.#isReporting = true;
    void Promise.resolve().then(() => {
      this.#isReporting = false;
      this.#report();
    });
  }

  #report(): void {
    if (this.#followers.isLeader) this.#followers.post({ kind: "state", state: this.#owner.state });
  }

  #want(tab: string, rooms: readonly WantedRoom[]): void {
    if (!this.#watched.has(tab)) {
      const gone = (): void => {
        this.#watched.delete(tab);
        this.#owner.want(tab, []);
      };
      this.#watched.set(tab, this.#followers.watch(tab, gone));
    }
    this.#owner.want(tab, rooms);
  }

  #submit(message: OutboxMessage): void {
    const isConfirmed = this.#owner.settled.some(({ key, ok }) => ok && key === message.key);
    if (isConfirmed) {
      this.#followers.post({ kind: "update", update: { kind: "settled", message, ok: true, error: null } });
    } else {
      this.#owner.accept(message);
    }
  }

  #decline(correlation_id: string, error: ErrorBody): void {
    const message = { type: "error", payload: error, timestamp: error.timestamp, correlation_id } as const;
    this.#followers.post({ kind: "update", update: { kind: "message", message } });
  }
}
