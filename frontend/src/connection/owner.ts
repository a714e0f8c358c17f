/** What a connection needs of its application and of the tab that it belongs to. */

import type { Update } from "../core/updates.js";
import type { ResumedRun } from "../protocol/messages.js";
import type { Position } from "../store/session-store.js";
import type { Leadership } from "../tabs/leader.js";
import type { GetToken } from "./opening.js";
import type { RetryOptions } from "./retry.js";

export interface ConnectionOptions extends RetryOptions {
  readonly url?: string | undefined;
  readonly getToken: GetToken | null;
}

export interface ConnectionOwner {
  /** Waits until this tab may connect as this user; null for a token that names no user. */
  lead(subject: string | null): Promise<Leadership>;
  /** The stored outbox is loaded: messages that wait elsewhere may be submitted. */
  ready(): void;
  /** The position up to which this tab has seen every event. */
  position(): Position | null;
  /** Whether a question is closed, by its events so far and the runs of a resume. */
  isClosed(questionId: string, runs: readonly ResumedRun[]): boolean;
  /** Whether a run is not over. */
  hasRuns(): boolean;
  update(update: Update): void;
  /** A request was written. */
  written(id: string): void;
  /** The page came to the front, or the network is back. */
  pageIsBack(): void;
  changed(): void;
}
