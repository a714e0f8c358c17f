/** What a tab needs of the client that it belongs to. */

import type { ConnectionOptions } from "../connection/owner.js";
import type { ServerMessage } from "../protocol/messages.js";

export interface TabOptions extends ConnectionOptions {
  readonly threadId?: string | undefined;
  readonly isShared: boolean;
}

export interface TabOwner {
  /** The snapshot has changed. */
  changed(): void;
  /** A message of the server that concerns this tab. */
  message(message: ServerMessage): void;
  /** Reads a thread's history; rejects with `RequestError`. */
  loadThread(threadId: string): Promise<unknown>;
}
