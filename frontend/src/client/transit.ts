/** Messages and requests on their way to the connection: of this tab, or of the tab that leads. */

import type { Connection } from "../connection/connection.js";
import { hasRoom, type OutboxMessage } from "../core/outbox.js";
import { bytesFault, DEFAULT_MAX_SIZE, LONGEST_TIME, sizeFault } from "../core/size.js";
import type { ConnectionState } from "../core/snapshot.js";
import type { Update } from "../core/updates.js";
import { SUBPROTOCOL_2, type ClientMessage, type ControlRequest, type ErrorBody, type RunRequest } from "../protocol/messages.js";
import type { TabGroup } from "../tabs/group.js";
import { outboxFull, tooManyRequests } from "./errors.js";
import type { Requests } from "./requests.js";
import type { Submissions } from "./submissions.js";

export interface TransitOwner {
  readonly group: TabGroup;
  readonly connection: Connection;
  publish(update: Update): void;
  now(): number;
}

export class Transit {
  readonly #submissions: Submissions;
  readonly #requests: Requests;
  readonly #owner: TransitOwner;

  constructor(submissions: Submissions, requests: Requests, owner: TransitOwner) {
    this.#submissions = submissions;
    this.#requests = requests;
    this.#owner = owner;
  }

  /** The error with which a message would be refused now, whenever it is sent; null if it would not. */
  check(message: ClientMessage, key: string): ErrorBody | null {
    const now = this.#owner.now();
    if (this.#isFull(message) && this.#submissions.known(key) === null) return outboxFull(now);
    return this.#bytesFault(message, now) ?? sizeFault(message, this.#maxSize ?? DEFAULT_MAX_SIZE, now, LONGEST_TIME);
  }

  /** The error with which a new message is refused; null if it is not. */
  fault(message: RunRequest): ErrorBody | null {
    const now = this.#owner.now();
    if (this.#isFull(message)) return outboxFull(now);
    // The server may allow more than by default, so an unknown limit refuses no text; bytes are held in memory.
    const unknown = message.data === undefined ? Infinity : DEFAULT_MAX_SIZE;
    return this.#bytesFault(message, now) ?? sizeFault(message, this.#maxSize ?? unknown, now);
  }

  deliver(message: OutboxMessage): void {
    const { group } = this.#owner;
    if (!group.submit(message) && group.isLeader) this.accept(message);
  }

  pass(id: string, message: ControlRequest): void {
    const { group, connection } = this.#owner;
    if (group.request(id, message) || connection.request(id, message)) return;
    this.#requests.answer(id, { error: tooManyRequests(this.#owner.now()) });
  }

  /** Hands everything that is open to a new leader. */
  passAll(isQueued: (key: string) => boolean = () => false): void {
    for (const message of this.#submissions.open()) if (!isQueued(message.key)) this.deliver(message);
    for (const [id, message] of this.#requests.open()) this.pass(id, message);
  }

  /** Puts a message of this tab or another one into the outbox. */
  accept(message: OutboxMessage): void {
    const { group, connection } = this.#owner;
    if (connection.submit(message)) {
      group.post({ kind: "accepted", key: message.key });
      this.#submissions.accepted(message.key);
    } else {
      void this.refuse(message, outboxFull(this.#owner.now()));
    }
  }

  /** Reports that a message cannot be sent; resolves to false. */
  refuse(message: OutboxMessage, error: ErrorBody): Promise<boolean> {
    this.#owner.publish({ kind: "settled", message, ok: false, error });
    return Promise.resolve(false);
  }

  #isFull(message: ClientMessage): boolean {
    const { type } = message;
    if (type !== "user_message" && type !== "agent_request") return false;
    return this.#submissions.isFull || !hasRoom(this.#submissions.open(), message);
  }

  /** The state of the last connection, until the next one is open: that may be of another kind. */
  #bytesFault(message: ClientMessage, now: number): ErrorBody | null {
    const { session } = this.#state;
    return bytesFault(message, session === null || session.subprotocol === SUBPROTOCOL_2, now);
  }

  /** The limit of the server, in bytes; null before it is known. */
  get #maxSize(): number | null {
    return this.#state.config?.connection_limits.max_message_size ?? null;
  }

  get #state(): ConnectionState {
    const { group, connection } = this.#owner;
    return group.leaderState ?? connection.state;
  }
}
