/** A tab's parts in the group of tabs: what it does as the one with the connection, and as another. */

import type { Connection } from "../connection/connection.js";
import type { OutboxMessage } from "../core/outbox.js";
import type { View } from "../store/view.js";
import type { Command } from "../tabs/channel.js";
import type { FollowerOwner, Sync } from "../tabs/follower.js";
import type { LeaderOwner } from "../tabs/service.js";
import { tooManyRequests } from "./errors.js";
import type { LatestError } from "./latest-error.js";
import type { Memberships } from "./memberships.js";
import type { Requests } from "./requests.js";
import type { Submissions } from "./submissions.js";
import type { Updates } from "./updates.js";

export interface Roles {
  readonly connection: Connection;
  readonly view: View;
  readonly submissions: Submissions;
  readonly memberships: Memberships;
  readonly requests: Requests;
  readonly updates: Updates;
  readonly errors: LatestError;
  readonly accept: (message: OutboxMessage) => void;
  readonly execute: (command: Command) => void;
  readonly sync: (message: Sync) => void;
  readonly now: () => number;
  readonly changed: () => void;
}

export function asLeader({ connection, view, submissions, memberships, ...roles }: Roles): LeaderOwner {
  return {
    get state() {
      return connection.state;
    },
    get view() {
      return view.state();
    },
    get queued() {
      return connection.outbox.map(({ key }) => key);
    },
    get settled() {
      return submissions.settled;
    },
    accept: roles.accept,
    request: (id, message) => (connection.request(id, message) ? null : tooManyRequests(roles.now())),
    want: (tab, rooms) => memberships.want(tab, rooms),
    execute: roles.execute,
  };
}

export function asFollower({ submissions, requests, updates, errors, ...roles }: Roles): Omit<FollowerOwner, "following"> {
  return {
    apply: (update) => updates.apply(update),
    sync: roles.sync,
    accepted: (key) => submissions.accepted(key),
    written: (id) => requests.written(id),
    isOwedAcceptance: () => submissions.unaccepted > 0,
    stateChanged: ({ lastError }) => {
      errors.connection(lastError);
      roles.changed();
    },
  };
}
