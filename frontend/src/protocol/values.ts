/** The values that messages of both directions are made of. */

export type JsonValue =
  | null
  | boolean
  | number
  | string
  | readonly JsonValue[]
  | { readonly [name: string]: JsonValue };
export type JsonObject = { readonly [name: string]: JsonValue };

export const SUBPROTOCOL = "netra.v1";
/** The same with short frames for text, and bytes in both directions. */
export const SUBPROTOCOL_2 = "netra.v2";

export const ON_BUSY = ["enqueue", "reject", "interrupt"] as const;
export type OnBusy = (typeof ON_BUSY)[number];

export const END_STATUSES = [
  "completed",
  "failed",
  "cancelled",
  "timed_out",
  "interrupted",
] as const;
export type EndStatus = (typeof END_STATUSES)[number];

export const RUN_STATUSES = ["queued", "running", ...END_STATUSES] as const;
export type RunStatus = (typeof RUN_STATUSES)[number];

export const CONFIRMATIONS = ["accepted", "queued", "duplicate"] as const;
export type Confirmation = (typeof CONFIRMATIONS)[number];

export const VERDICTS = ["new", "exact", "gap", "reset"] as const;
export type Verdict = (typeof VERDICTS)[number];

export const RESET_REASONS = ["unknown", "ahead"] as const;
export type ResetReason = (typeof RESET_REASONS)[number];

export const ROOM_VERDICTS = ["new", "exact", "gap"] as const;
export type RoomVerdict = (typeof ROOM_VERDICTS)[number];

export const ROOM_CONFIRMATIONS = ["accepted", "duplicate"] as const;
export type RoomConfirmation = (typeof ROOM_CONFIRMATIONS)[number];

export const PRESENCE_CHANGES = ["joined", "left"] as const;
export type PresenceChange = (typeof PRESENCE_CHANGES)[number];

export const THREAD_CHANGES = ["renamed", "updated", "deleted"] as const;
export type ThreadChange = (typeof THREAD_CHANGES)[number];

export const USAGE_UNITS = ["tokens", "cost"] as const;
export type UsageUnit = (typeof USAGE_UNITS)[number];

export const RATINGS = ["up", "down"] as const;
export type Rating = (typeof RATINGS)[number];

export const QUESTION_KINDS = ["question", "approval"] as const;
export type QuestionKind = (typeof QUESTION_KINDS)[number];

/** The known outcomes; a newer server may have more. */
export const QUESTION_OUTCOMES = ["answered", "approved", "denied", "expired", "cancelled"] as const;
export type QuestionOutcome = (typeof QUESTION_OUTCOMES)[number];

/** The body of an error, in a frame, at the end of a run and in an HTTP answer. */
export interface ErrorBody {
  readonly code: string;
  readonly error: string;
  /** Unix seconds. */
  readonly timestamp: number;
  readonly recoverable: boolean;
  readonly help: string;
  readonly retry_after_ms?: number;
  readonly error_id?: string;
}

/** An agent of the server. */
export interface ListedAgent {
  readonly name: string;
  readonly title: string;
  /** Example messages. */
  readonly examples: readonly string[];
}

/** A thread in the list of its user. */
export interface ListedThread {
  readonly thread_id: string;
  /** The name of its room. */
  readonly room: string;
  readonly title: string;
  /** Unix seconds. */
  readonly created_at: number;
  /** Of its newest message, in Unix seconds. */
  readonly updated_at: number;
  /** The number of its runs that have not ended. */
  readonly runs_active: number;
  /** Whether one of them waits for an answer. */
  readonly asks: boolean;
  /** The number of agents' messages after the read mark. */
  readonly unread: number;
}
