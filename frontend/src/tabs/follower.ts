/**
 * A tab that follows: it applies what the leader reports, submits through it, and takes the
 * leadership if the leader does not answer.
 */

import { isTokenRefused } from "../core/retry-rules.js";
import type { ConnectionState } from "../core/snapshot.js";
import type { Update } from "../core/updates.js";
import type { Cancel, Timers } from "../ports.js";
import type { Outcome } from "../store/view.js";
import type { Command, FollowerMessage, LeaderMessage } from "./channel.js";

const ANSWER_WITHIN = 10_000; // ms: a busy page answers by then, a frozen one never does
const LONGEST_WAIT = 320_000; // ms: tabs that cannot hear each other take the leadership more and more rarely

export type Sync = Extract<LeaderMessage, { readonly kind: "sync" }>;

/** What a follower needs of the election. */
export interface Following {
  readonly id: string;
  post(message: FollowerMessage): void;
  /** Another tab leads. */
  followed(): void;
  steal(): void;
}

export interface FollowerOwner {
  /** The election, while this tab follows; null otherwise. */
  following(): Following | null;
  apply(update: Update): Outcome;
  sync(message: Sync): void;
  accepted(key: string): void;
  written(id: string): void;
  /** Whether the leader has yet to accept a message. */
  isOwedAcceptance(): boolean;
  /** The leader's connection has another state. */
  stateChanged(state: ConnectionState): void;
}

export class Follower {
  readonly #timers: Timers;
  readonly #owner: FollowerOwner;
  #state: ConnectionState | null = null;
  #isSynced = false;
  /** The application wants a connection, and this tab has been neither connected nor leader since. */
  #isWanted = false;
  /** The leader knows that this tab wants a connection. */
  #hasAsked = false;
  #answerTimeout: Cancel | null = null;
  #patience = ANSWER_WITHIN;

  constructor(timers: Timers, owner: FollowerOwner) {
    this.#timers = timers;
    this.#owner = owner;
  }

  /** The state of the leader's connection, if this tab has received it. */
  get state(): ConnectionState | null {
    return this.#state;
  }

  /** The application asked for a connection. */
  wantConnection(isWanted: boolean): void {
    this.#isWanted = isWanted;
  }

  /** This tab leads, or takes no part any more. */
  ended(): void {
    this.#answered();
    this.#state = null;
    this.#isSynced = false;
  }

  /** Sends a message that the leader answers at once. */
  ask(message: FollowerMessage): void {
    this.#owner.following()?.post(message);
    this.expectAnswer();
  }

  /** Asks the leader to do something; false if this tab does not follow. */
  command(command: Command): boolean {
    if (this.#owner.following() === null) return false;
    this.ask({ kind: "command", command });
    return true;
  }

  received(message: LeaderMessage): void {
    this.#handle(message);
    this.#answered();
    this.#patience = ANSWER_WITHIN;
    // The leader is alive, but that does not accept the messages that were submitted to it.
    if (this.#owner.isOwedAcceptance() && this.#owner.following() !== null) this.expectAnswer(true);
  }

  /** @param isAlive Whether the leader has just answered: then it is asked again before it is replaced. */
  expectAnswer(isAlive = false): void {
    if (this.#answerTimeout !== null) return;
    const asked = this.#timers.now();
    const patience = this.#patience;
    this.#answerTimeout = this.#timers.setTimeout(() => {
      this.#answerTimeout = null;
      const following = this.#owner.following();
      if (following === null) return;
      // If this tab itself was suspended, an answer may be waiting: it asks once more.
      const wasSuspended = this.#timers.now() - asked > 2 * patience;
      if (isAlive || wasSuspended) {
        this.ask({ kind: "join", from: following.id });
        return;
      }
      this.#patience = Math.min(LONGEST_WAIT, 2 * patience);
      following.steal();
    }, patience);
  }

  #answered(): void {
    this.#answerTimeout?.();
    this.#answerTimeout = null;
  }

  #handle(message: LeaderMessage): void {
    const following = this.#owner.following();
    if (following === null) return;
    switch (message.kind) {
      case "leader":
        this.#hasAsked = false;
        this.#join(following);
        break;
      case "sync":
        if (message.to !== following.id) break;
        following.followed();
        this.#isSynced = true;
        this.#setState(message.state);
        this.#owner.sync(message);
        break;
      case "state":
        following.followed();
        this.#setState(message.state);
        break;
      case "update":
        if (this.#isSynced && this.#owner.apply(message.update) === "missed") this.#join(following);
        break;
      case "accepted":
        this.#owner.accepted(message.key);
        break;
      case "written":
        this.#owner.written(message.id);
        break;
    }
  }

  #join(following: Following): void {
    this.#isSynced = false;
    following.post({ kind: "join", from: following.id });
  }

  #setState(state: ConnectionState): void {
    this.#state = state;
    if (state.status === "CONNECTED") this.#isWanted = false;
    this.#owner.stateChanged(state);
    // The leader's token was refused, and this tab's may be newer: it asks each leader once.
    if (!this.#isWanted || !isTokenRefused(state) || this.#hasAsked) return;
    this.#hasAsked = true;
    this.command("connect");
  }
}
