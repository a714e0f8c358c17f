/** The state of the connection that applications see, and the rules for its last error. */

import type { ServerConfig } from "../protocol/discovery.js";
import type { ErrorBody } from "../protocol/messages.js";
import type { ConnectionState, SessionInfo, Status } from "../core/snapshot.js";
import { Stats } from "../core/stats.js";

export class StateTracker {
  readonly stats = new Stats();
  status: Status = "DISCONNECTED";
  config: ServerConfig | null = null;
  session: SessionInfo | null = null;
  #lastError: ErrorBody | null = null;
  #explainsStatus = false;

  /** The error that explains why there is no connection, or null. */
  get cause(): ErrorBody | null {
    return this.#explainsStatus ? this.#lastError : null;
  }

  /** An error of a message, a request or a frame. */
  failed(error: ErrorBody): void {
    this.reported(error, false);
    this.stats.failed();
  }

  /** @param explainsStatus Whether the error is shown only until the next connection. */
  reported(error: ErrorBody, explainsStatus: boolean): void {
    this.#lastError = error;
    this.#explainsStatus = explainsStatus;
  }

  connected(now: number, session: SessionInfo): void {
    this.status = "CONNECTED";
    this.session = session;
    if (this.#explainsStatus) this.clearError();
    this.#explainsStatus = false;
    this.stats.connected(now, session.connection_id);
  }

  clearError(): void {
    this.#lastError = null;
  }

  value(rest: Pick<ConnectionState, "retry" | "tokenEndsAt">): ConnectionState {
    const { status, config, session } = this;
    return { status, config, session, stats: this.stats.value, lastError: this.#lastError, ...rest };
  }
}
