/** The commands of applications, for the connection of this tab or for the tab that leads. */

import type { Connection } from "../connection/connection.js";
import { isTokenRefused } from "../core/retry-rules.js";
import type { Command } from "../tabs/channel.js";

export interface CommandsOwner {
  readonly connection: Connection;
  /** Passes a command to the tab that leads; false if this tab does not follow. */
  pass(command: Command): boolean;
  /** Gives way to another tab. */
  rejoin(): void;
}

export class Commands {
  readonly #owner: CommandsOwner;

  constructor(owner: CommandsOwner) {
    this.#owner = owner;
  }

  /** Executes a command of this tab. */
  run(command: Command): void {
    const { connection } = this.#owner;
    if (this.#owner.pass(command)) return;
    switch (command) {
      case "connect":
        return connection.start();
      case "forceReconnect":
        return connection.restart();
      case "retryNow":
        connection.retryNow();
        return;
      case "wake":
        return connection.wake();
      case "clearError":
        return connection.clearError();
    }
  }

  /** Executes a command of another tab. */
  execute(command: Command): void {
    const isConnect = command === "connect" || command === "forceReconnect" || command === "retryNow";
    // The token of this tab was refused; the other tab may have a better one.
    if (isConnect && isTokenRefused(this.#owner.connection.state)) this.#owner.rejoin();
    else this.run(command);
  }
}
