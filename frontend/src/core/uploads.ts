/** Uploads of files: their states, and when one that broke off begins again. */

import { ATTACHMENTS } from "../protocol/encode.js";
import type { ErrorBody, ListedFile } from "../protocol/messages.js";
import { fullJitter } from "./backoff.js";
import { localError } from "./retry-rules.js";

/** The content of an upload: a `File` or a `Blob` of a browser. */
export interface FileSource {
  /** Bytes. */
  readonly size: number;
  /** The media type; "" if it is not known. The server detects it from the content. */
  readonly type: string;
  readonly name?: string;
}

/** A file that the server has. */
export interface UploadedFile extends ListedFile {
  /** Of its content, in hexadecimal digits. */
  readonly sha256: string;
}

export interface UploadProgress {
  /** Bytes of this attempt: each begins at 0, because the server keeps no part of a file. */
  readonly sent: number;
  /** Bytes of the file. */
  readonly total: number;
  /** While the upload waits for its next attempt. */
  readonly retry: UploadRetry | null;
}

export interface UploadRetry {
  /** Milliseconds since 1970. */
  readonly at: number;
  /** Why the last attempt failed. */
  readonly error: ErrorBody;
}

export interface UploadOptions {
  /** The name of the file; that of the source if absent. */
  readonly name?: string | undefined;
  readonly onProgress?: ((progress: UploadProgress) => void) | undefined;
}

export interface Upload {
  /**
   * Resolves once the server has the file. Rejects with `RequestError`: `MESSAGE_TOO_LARGE` for a file
   * that is too large, which is not sent at all; `ABORTED`; or what the server refused it with.
   */
  readonly done: Promise<UploadedFile>;
  /** Ends the upload; no effect once it is done. */
  readonly abort: () => void;
}

/** One of several uploads. `waiting`: for others; `retrying`: for its next attempt. */
export interface UploadItem {
  readonly key: string;
  readonly status: "waiting" | "uploading" | "retrying" | "done" | "failed";
  readonly name: string;
  /** Once it is done, the type that the server has detected. */
  readonly media_type: string;
  readonly bytes: number;
  readonly sent: number;
  /** Null for a file that was uploaded before. */
  readonly source: FileSource | null;
  /** Once it is done. */
  readonly file: ListedFile | null;
  readonly retry: UploadRetry | null;
  /** Of a failed one. */
  readonly error: ErrorBody | null;
}

/** Whether an upload is neither done nor failed. */
export const isUnderWay = ({ status }: UploadItem): boolean => status !== "done" && status !== "failed";

export const STALLED_AFTER = 90_000; // ms without progress: the connection is lost
const FIRST_RETRY = 1_000; // ms
const SHORTEST_RETRY = 250; // ms
const TRIES = 8; // of an upload that the server, or a proxy, ends again and again

/** Counts the attempts of one upload, and decides about the next one. */
export class UploadTries {
  #attempts = 0;
  #ended = 0;

  /**
   * Milliseconds until the next attempt; null if there is none.
   *
   * @param error Why the attempt failed.
   * @param hasBegun Whether a part of the file was sent, or the server has answered.
   * @param retryAfter Milliseconds to wait at least.
   * @param random From 0 up to 1.
   */
  next(error: ErrorBody, hasBegun: boolean, retryAfter: number, random: number): number | null {
    this.#attempts += 1;
    // Without a network nothing is sent, and a rate limit passes: such attempts cost nothing.
    if (hasBegun && error.code !== "RATE_LIMIT_EXCEEDED") this.#ended += 1;
    if (this.#ended >= TRIES) return null;
    return Math.max(SHORTEST_RETRY, retryAfter, fullJitter(this.#attempts, FIRST_RETRY, random));
  }
}

export function tooLarge(bytes: number, max: number, now: number): ErrorBody {
  const error = `The file has ${bytes} bytes; at most ${max} are allowed.`;
  return localError(now, "MESSAGE_TOO_LARGE", error, "Upload a smaller file.");
}

export const tooMany = (now: number): ErrorBody =>
  localError(now, "TOO_MANY_FILES", `A message has at most ${ATTACHMENTS} files.`, "Send the others with another message.");

export const aborted = (now: number): ErrorBody =>
  localError(now, "ABORTED", "The upload was aborted.", "Begin it again.");

export const unreadable = (now: number): ErrorBody =>
  localError(now, "FILE_UNREADABLE", "The file cannot be read: it was changed or removed.", "Choose it again.");

export const brokenOff = (now: number): ErrorBody =>
  localError(now, "NO_ANSWER", "The connection was lost during the upload.", "Try again.");

export const unsupported = (now: number): ErrorBody =>
  localError(now, "NOT_SUPPORTED", "Files are not supported here.", "Send the message without files.");
