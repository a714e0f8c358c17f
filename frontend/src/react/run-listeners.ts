/** The runs of a client for components that each show one: a delta costs nothing in the others. */

import type { NetraClient } from "../client/api.js";
import type { Snapshot } from "../core/snapshot.js";

/** Tells the listeners of a run that it has changed. New text is told once for each frame of the screen. */
export class RunListeners {
  readonly #client: NetraClient;
  readonly #listeners = new Map<string, Set<() => void>>();
  readonly #written = new Set<string>();
  #seen: Pick<Snapshot, "outline" | "writing">;
  #end: (() => void) | null = null;
  #frame: number | null = null;

  constructor(client: NetraClient) {
    this.#client = client;
    this.#seen = client.getSnapshot();
  }

  add(runId: string, listener: () => void): () => void {
    const known = this.#listeners.get(runId) ?? new Set();
    this.#listeners.set(runId, known);
    known.add(listener);
    if (this.#end === null) {
      this.#seen = this.#client.getSnapshot();
      this.#end = this.#client.subscribe(() => this.#changed());
    }
    return () => {
      known.delete(listener);
      if (known.size === 0 && this.#listeners.get(runId) === known) this.#listeners.delete(runId);
      if (this.#listeners.size > 0) return;
      this.#end?.();
      this.#end = null;
      this.#cancelFrame();
    };
  }

  #changed(): void {
    const before = this.#seen;
    const { outline, writing } = (this.#seen = this.#client.getSnapshot());
    if (outline !== before.outline) {
      this.#cancelFrame();
      for (const listeners of [...this.#listeners.values()]) for (const listener of [...listeners]) listener();
      return;
    }
    for (const [id, run] of writing) if (before.writing.get(id) !== run) this.#written.add(id);
    if (this.#written.size > 0) this.#frame ??= requestAnimationFrame(() => this.#tellWritten());
  }

  #tellWritten(): void {
    this.#frame = null;
    const written = [...this.#written];
    this.#written.clear();
    for (const id of written) for (const listener of [...(this.#listeners.get(id) ?? [])]) listener();
  }

  #cancelFrame(): void {
    if (this.#frame !== null) cancelAnimationFrame(this.#frame);
    this.#frame = null;
    this.#written.clear();
  }
}
