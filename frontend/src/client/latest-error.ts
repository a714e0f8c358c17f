/** The latest error: the tab's own, until the connection reports a newer one. */

import type { ErrorBody } from "../protocol/messages.js";

export class LatestError {
  #own: ErrorBody | null = null;
  #connection: ErrorBody | null = null;

  /** The error to show, given the connection's last error. */
  latest(connection: ErrorBody | null): ErrorBody | null {
    return this.#own ?? connection;
  }

  /** An error of a message or a request of this tab. */
  own(error: ErrorBody | null): void {
    this.#own = error;
  }

  /**
   * The last error of the connection. A different one than before is newer than the tab's own,
   * whatever its timestamp says: clocks differ.
   */
  connection(error: ErrorBody | null): void {
    const before = this.#connection;
    this.#connection = error;
    if (error === null) return;
    if (error.code !== before?.code || error.timestamp !== before.timestamp) this.#own = null;
  }
}
