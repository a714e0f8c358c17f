/** Requests to stop runs: each settles when its run has ended, however the tab learns of it. */

import type { Asking } from "./requests.js";

export class RunStops {
  readonly #owner: Asking;
  readonly #waiting = new Map<string, Set<(ok: boolean) => void>>();

  constructor(owner: Asking) {
    this.#owner = owner;
  }

  /** The runs that are being stopped. */
  runs(): readonly string[] {
    return [...this.#waiting.keys()];
  }

  /** Resolves to true once the run has ended, to false if the server refuses. */
  stop(runId: string): Promise<boolean> {
    return new Promise((resolve) => {
      const id = this.#owner.uniqueId();
      const waiting = this.#waiting.get(runId) ?? new Set();
      this.#waiting.set(runId, waiting);
      const done = (ok: boolean): void => {
        waiting.delete(done);
        if (waiting.size === 0) this.#waiting.delete(runId);
        this.#owner.forget(id);
        resolve(ok);
      };
      waiting.add(done);
      const message = { type: "stop_agent", payload: { run_id: runId }, correlation_id: id } as const;
      this.#owner.ask(id, message, {
        written: () => undefined,
        // A run that the server does not know has ended, or never existed: nothing has to be stopped.
        answered: ({ error }) => done(error?.code === "RUN_NOT_FOUND"),
      });
    });
  }

  ended(runId: string): void {
    for (const done of [...(this.#waiting.get(runId) ?? [])]) done(true);
  }
}
