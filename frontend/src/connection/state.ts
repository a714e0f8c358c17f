/** The state of the connection that applications see, and the rules for its last error. */

import type { ServerConfig } from "../protocol/discovery.js";
import type { ErrorBody, ServerLimits } from "../protocol/messages.js";
import type { ConnectionState, SessionInfo, Status, Transport } from "../core/snapshot.js";
import { Stats } from "../core/stats.js";

export class StateTracker {
  readonly stats = new Stats();
  status: Status = "DISCONNECTED";
  config: ServerConfig | null = null;
  session: SessionInfo | null = null;
  #clockOffset = 0;
  #lastError: ErrorBody | null = null;
  #explainsStatus = false;

  /** The limits of the server that this client is connected to, which may be newer than those of `config`. */
  set limits(connection_limits: ServerLimits) {
    if (this.config !== null) this.config = { ...this.config, connection_limits };
  }

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

  /** There is no connection, because of this error; another one is being opened, or will be. */
  reconnecting(error: ErrorBody): void {
    this.status = "RECONNECTING";
    this.reported(error, true);
  }

  /** @param serverTime In Unix seconds. */
  connected(now: number, session: SessionInfo, serverTime: number, transport: Transport): void {
    this.#clockOffset = serverTime * 1000 - now;
    this.status = "CONNECTED";
    this.session = session;
    if (this.#explainsStatus) this.clearError();
    this.#explainsStatus = false;
    this.stats.connected(now, session.connection_id, transport);
  }

  clearError(): void {
    this.#lastError = null;
  }

  value(rest: Pick<ConnectionState, "retry" | "tokenEndsAt">): ConnectionState {
    const { status, config, session } = this;
    const own = { stats: this.stats.value, lastError: this.#lastError, clockOffset: this.#clockOffset };
    return { status, config, session, ...own, ...rest };
  }
}
