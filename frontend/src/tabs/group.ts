/** The tabs of one user, as one of them sees them: the election, and its part as leader or follower. */

import type { OutboxMessage } from "../core/outbox.js";
import type { WantedRoom } from "../core/rooms.js";
import type { ConnectionState, Role } from "../core/snapshot.js";
import type { ControlRequest } from "../protocol/messages.js";
import type { Ports } from "../ports.js";
import { isFromFollower, type Command, type LeaderMessage, type TabMessage } from "./channel.js";
import { Follower, type FollowerOwner, type Following } from "./follower.js";
import { LeaderElection, type Leadership } from "./leader.js";
import { LeaderService, type LeaderOwner } from "./service.js";

export interface TabGroupOwner {
  readonly asLeader: LeaderOwner;
  readonly asFollower: Omit<FollowerOwner, "following">;
  /** Another tab has taken the leadership away. */
  lost(): void;
  /** From now on the leader accepts the rooms of this tab. */
  present(): void;
}

export class TabGroup {
  readonly #election: LeaderElection;
  readonly #follower: Follower;
  readonly #service: LeaderService;

  constructor(ports: Ports, address: string, isShared: boolean, owner: TabGroupOwner) {
    const election = new LeaderElection(ports, address, isShared, {
      received: (message) => this.#received(message),
      lost: () => owner.lost(),
      present: () => owner.present(),
    });
    this.#election = election;
    this.#follower = new Follower(ports.timers, { ...owner.asFollower, following: () => this.#following() });
    this.#service = new LeaderService(owner.asLeader, {
      get isLeader() {
        return election.role === "leader";
      },
      post: (message) => this.post(message),
      watch: (tab, gone) => election.watch(tab, gone),
    });
  }

  get role(): Role {
    return this.#election.role;
  }

  /** Whether this tab may connect, and has the outbox; also true for a tab that does not share. */
  get isLeader(): boolean {
    return this.#election.isLeader;
  }

  /** The state of the connection of another tab that leads, if this tab has received it. */
  get leaderState(): ConnectionState | null {
    return this.role === "follower" ? this.#follower.state : null;
  }

  /** Settles once this tab leads; never, if it leaves before that. */
  join(subject: string | null): Promise<Leadership> {
    const leadership = this.#election.join(subject);
    // The leader answers the message with which a tab joins.
    if (this.role === "follower") this.#follower.expectAnswer();
    return leadership;
  }

  /** This tab leads, and is ready for messages. */
  ready(): void {
    this.#follower.ended();
    this.#follower.wantConnection(false);
  }

  leave(): void {
    this.#service.ended();
    this.#election.leave();
    this.#follower.ended();
  }

  /** Deletes the stored session and outbox of a user. */
  drop(subject: string | null): void {
    this.#election.drop(subject);
  }

  /** Whether the application wants a connection that this tab does not have. */
  wantConnection(isWanted: boolean): void {
    this.#follower.wantConnection(isWanted && !this.isLeader);
  }

  // Passing something to the leader; false if this tab does not follow.

  command(command: Command): boolean {
    return this.#follower.command(command);
  }

  submit(message: OutboxMessage): boolean {
    if (this.role !== "follower") return false;
    this.#follower.ask({ kind: "submit", message });
    return true;
  }

  request(id: string, message: ControlRequest): boolean {
    if (this.role !== "follower") return false;
    this.#follower.ask({ kind: "request", id, message });
    return true;
  }

  want(rooms: readonly WantedRoom[]): boolean {
    if (this.role !== "follower") return false;
    const { channel, isPresent } = this.#election;
    if (channel !== null && isPresent) this.#follower.ask({ kind: "rooms", from: channel.id, rooms });
    return true;
  }

  // Reporting to the followers.

  post(message: LeaderMessage): void {
    this.#election.channel?.post(message);
  }

  connectionChanged(): void {
    if (this.role === "leader") this.#service.stateChanged();
  }

  #received(message: TabMessage): void {
    const isLeader = this.role === "leader";
    if (!isFromFollower(message)) {
      // A message of a leader that this tab has just replaced is outdated.
      if (!isLeader) this.#follower.received(message);
    } else if (isLeader) {
      this.#service.received(message);
    }
  }

  #following(): Following | null {
    const { channel } = this.#election;
    if (channel === null || this.role !== "follower") return null;
    return {
      id: channel.id,
      post: (message) => channel.post(message),
      followed: () => this.#election.followed(),
      steal: () => this.#election.steal(),
    };
  }
}
