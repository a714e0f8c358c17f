/**
 * The runs that a tab knows, from three sources: the events of its session, the threads that it
 * watches, and the history. One run may be in all of them.
 */

import { BoundedMap } from "../core/bounded-map.js";
import { isEnd, type Run } from "../core/snapshot.js";

type Runs = ReadonlyMap<string, Run>;

const KEPT = 500; // ended runs; older ones are in the server's history

export class RunStore {
  readonly #sessions = new Map<string, Run>();
  /** The runs of the current session: its events are complete, and a watched thread has none of them. */
  readonly #own = new Set<string>();
  readonly #watched = new Map<string, Runs>();
  /** Ended runs whose answer is in the history. */
  readonly #listed = new Map<string, Run>();
  readonly #hidden = new BoundedMap<string, true>(KEPT);
  /** All runs that are shown; null until they are merged again. An event replaces one run in it. */
  #merged: Map<string, Run> | null = null;

  /** All runs that are shown, by id. */
  get all(): Runs {
    this.#merged ??= this.#merge();
    return this.#merged;
  }

  get(id: string): Run | undefined {
    return this.all.get(id);
  }

  /** A run of a session, as that session's events have it. */
  ofSession(id: string): Run | undefined {
    return this.#sessions.get(id);
  }

  /** The runs of sessions, this one and earlier ones. */
  get sessions(): readonly Run[] {
    return [...this.#sessions.values()];
  }

  /** The ids of the runs of the current session. */
  get own(): readonly string[] {
    return [...this.#own];
  }

  isOwn(id: string): boolean {
    return this.#own.has(id);
  }

  /** Whether a run of the current session is not over. */
  get isActive(): boolean {
    return this.sessions.some(({ run_id, status }) => this.#own.has(run_id) && !isEnd(status));
  }

  /** A run after an event of the session. */
  event(run: Run): void {
    this.#own.add(run.run_id);
    this.set(run);
  }

  set(run: Run): void {
    this.#sessions.set(run.run_id, run);
    if (this.#own.has(run.run_id)) this.#replace(run, () => run);
    else this.#merged = null;
  }

  /** Another session begins: what it does not report is no longer its own. */
  begin(): void {
    this.#own.clear();
    this.#merged = null;
  }

  /**
   * The runs of a watched thread; null: it is not watched any more.
   *
   * @returns The runs that changed; null if a run is gone.
   */
  watch(thread: string, runs: Runs | null): readonly Run[] | null {
    const before = this.#watched.get(thread) ?? new Map<string, Run>();
    if (runs === null) this.#watched.delete(thread);
    else this.#watched.set(thread, runs);
    const gone = [...before.values()].filter(({ run_id }) => runs?.has(run_id) !== true);
    // The room keeps only its newest ended runs.
    if (runs !== null) for (const run of gone) if (isEnd(run.status) && !this.#listed.has(run.run_id)) this.#listed.set(run.run_id, run);
    const isGone = runs === null || gone.length > 0;
    if (isGone) this.#merged = null;
    const changed = [...(runs ?? [])].map(([, run]) => run).filter((run) => before.get(run.run_id) !== run);
    for (const run of changed) {
      if (!this.#own.has(run.run_id)) this.#replace(run, (known) => newer(known, run));
    }
    return isGone ? null : changed;
  }

  /** Replaces one run in the merged ones, which costs the same however many they are. */
  #replace({ run_id }: Run, change: (known: Run) => Run): void {
    const known = this.#merged?.get(run_id);
    if (known !== undefined) this.#merged?.set(run_id, change(known));
    else if (!this.isHidden(run_id)) this.#merged = null;
  }

  /** An ended run, as the history has it; what was seen of it alive is kept, unless its end was missed. */
  list(run: Run): void {
    const { run_id } = run;
    const known = this.#sessions.get(run_id);
    const seen = known === undefined ? {} : { usage: known.usage, attempt: Math.max(known.attempt, run.attempt) };
    this.#listed.set(run_id, { ...run, ...seen });
    if (known !== undefined && !isEnd(known.status)) this.#sessions.delete(run_id);
    this.#merged = null;
  }

  /** A run is not shown any more: its message was replaced. */
  hide(id: string): void {
    this.#hidden.set(id, true);
    this.#merged = null;
  }

  isHidden(id: string | null): boolean {
    return id !== null && this.#hidden.has(id);
  }

  /** @param own The ids of those of the current session. */
  replaceAll(runs: readonly Run[], own: readonly string[]): void {
    this.#sessions.clear();
    this.#own.clear();
    for (const id of own) this.#own.add(id);
    for (const run of runs) this.#sessions.set(run.run_id, run);
    this.#merged = null;
  }

  clear(): void {
    this.replaceAll([], []);
    this.#watched.clear();
    this.#listed.clear();
    this.#hidden.clear();
  }

  prune(): void {
    for (const [id, run] of this.#sessions) {
      if (this.#sessions.size <= KEPT) break;
      if (!isEnd(run.status)) continue;
      this.#sessions.delete(id);
      this.#own.delete(id);
    }
    this.#merged = null;
  }

  #merge(): Map<string, Run> {
    const all = new Map(this.#listed);
    for (const [id, run] of this.#sessions) all.set(id, this.#own.has(id) ? run : newer(all.get(id), run));
    for (const watched of this.#watched.values()) {
      for (const [id, run] of watched) if (!this.#own.has(id)) all.set(id, newer(all.get(id), run));
    }
    for (const id of all.keys()) if (this.#hidden.has(id)) all.delete(id);
    return all;
  }
}

/** Of two reports of a run, the later one: a run does not go on after its end. */
const newer = (before: Run | undefined, run: Run): Run =>
  before !== undefined && isEnd(before.status) && !isEnd(run.status) ? before : run;
