/** Messages and requests on their way to the connection: of this tab, or of the tab that leads. */

import type { Connection } from "../connection/connection.js";
import type { OutboxMessage } from "../core/outbox.js";
import type { Update } from "../core/updates.js";
import type { ControlRequest } from "../protocol/messages.js";
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
      void this.refuse(message);
    }
  }

  /** Reports that the outbox is full; resolves to false. */
  refuse(message: OutboxMessage): Promise<boolean> {
    this.#owner.publish({ kind: "settled", message, ok: false, error: outboxFull(this.#owner.now()) });
    return Promise.resolve(false);
  }
}
