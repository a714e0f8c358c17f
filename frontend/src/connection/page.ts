/** The events of the page that concern a connection, from its start to its end. */

import type { Cancel, Ports } from "../ports.js";

export class PageEvents {
  readonly #ports: Pick<Ports, "onPage">;
  readonly #back: () => void;
  readonly #hide: () => void;
  #cancels: readonly Cancel[] = [];

  /**
   * @param back The page came to the front, or the network is back.
   * @param hide The page is hidden, and may be closed.
   */
  constructor(ports: Pick<Ports, "onPage">, back: () => void, hide: () => void) {
    this.#ports = ports;
    this.#back = back;
    this.#hide = hide;
  }

  start(): void {
    if (this.#cancels.length > 0) return;
    const ports = this.#ports;
    this.#cancels = [
      ports.onPage("online", this.#back),
      ports.onPage("visible", this.#back),
      // A page that comes back from the browser's cache may have lost its socket without an event.
      ports.onPage("show", this.#back),
      ports.onPage("hide", this.#hide),
    ];
  }

  stop(): void {
    for (const cancel of this.#cancels) cancel();
    this.#cancels = [];
  }
}
