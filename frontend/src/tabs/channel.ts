/**
 * Messages between the tabs of one user. The tab that holds a lock leads: it has the connection, and
 * tells the others what happens.
 *
 *     a tab that joins     join →            the leader answers `sync` with its whole state
 *     the leader           leader, sync, state, update, accepted, written
 *     a follower           join, submit, request, command, rooms
 *
 * A follower keeps a message until the leader has accepted it, and submits it again to the next
 * leader; keys make that harmless. It tells each leader which rooms it wants; the leader notices by a
 * lock that a follower is gone.
 */

import { isObject } from "../protocol/check.js";
import type { ControlRequest, ErrorBody } from "../protocol/messages.js";
import type { OutboxMessage } from "../core/outbox.js";
import type { WantedRoom } from "../core/rooms.js";
import type { ConnectionState } from "../core/snapshot.js";
import type { Update } from "../core/updates.js";
import type { Channel, Ports } from "../ports.js";
import type { ViewState } from "../store/view.js";

/** The outcome of a message, for tabs that did not receive its update. */
export interface Settled {
  readonly key: string;
  readonly ok: boolean;
  readonly error: ErrorBody | null;
}

/** What a follower may ask the leader to do with the connection. */
export type Command = "connect" | "forceReconnect" | "retryNow" | "wake" | "clearError";

export type LeaderMessage =
  | { readonly kind: "leader" }
  | {
      readonly kind: "sync";
      readonly to: string;
      readonly view: ViewState;
      readonly state: ConnectionState;
      /** The keys of the messages in the outbox. */
      readonly queued: readonly string[];
      readonly settled: readonly Settled[];
    }
  | { readonly kind: "state"; readonly state: ConnectionState }
  | { readonly kind: "update"; readonly update: Update }
  | { readonly kind: "accepted"; readonly key: string }
  | { readonly kind: "written"; readonly id: string };

export type FollowerMessage =
  | { readonly kind: "join"; readonly from: string }
  | { readonly kind: "submit"; readonly message: OutboxMessage }
  | { readonly kind: "request"; readonly id: string; readonly message: ControlRequest }
  | { readonly kind: "command"; readonly command: Command }
  /** All rooms that a tab needs now. */
  | { readonly kind: "rooms"; readonly from: string; readonly rooms: readonly WantedRoom[] };

export type TabMessage = LeaderMessage | FollowerMessage;

const FROM_FOLLOWERS: ReadonlySet<string> = new Set<FollowerMessage["kind"]>([
  "join",
  "submit",
  "request",
  "command",
  "rooms",
]);

export const isFromFollower = (message: TabMessage): message is FollowerMessage =>
  FROM_FOLLOWERS.has(message.kind);

export class TabChannel {
  /** The name of this tab on the channel. */
  readonly id: string;
  readonly #channel: Channel;

  constructor(
    ports: Pick<Ports, "uniqueId"> & { readonly openChannel: NonNullable<Ports["openChannel"]> },
    name: string,
    received: (message: TabMessage) => void,
  ) {
    this.id = ports.uniqueId();
    this.#channel = ports.openChannel(name, (message) => {
      // The sender has the same origin and version, so no further check is needed.
      if (isObject(message) && "kind" in message) received(message as unknown as TabMessage);
    });
  }

  post(message: TabMessage): void {
    this.#channel.post(message);
  }

  close(): void {
    this.#channel.close();
  }
}
