/** The server's endpoint for uploads, in memory: each upload is answered at once, or by the test. */

import type { FileSource, HistoryMessage, HttpAnswer, UploadEvents, UploadRequest } from "../../src/index.js";
import type { Clock } from "./clock.js";

export class FakeUpload {
  readonly request: UploadRequest;
  isAborted = false;
  readonly #events: UploadEvents;
  readonly #count: number;

  constructor(request: UploadRequest, events: UploadEvents, count: number) {
    this.request = request;
    this.#events = events;
    this.#count = count;
  }

  progress(sent: number): void {
    if (!this.isAborted) this.#events.progress(sent);
  }

  answer(answer: Partial<HttpAnswer> = {}): void {
    const { size: bytes, type } = this.request.file;
    const { media_type = type || "application/octet-stream", sha256 = `digest-${this.#count}` } = this.request.file as FakeFile;
    const body = JSON.stringify({ file_id: `file-${this.#count}`, media_type, bytes, sha256 });
    if (!this.isAborted) this.#events.ended({ status: 200, body, retryAfter: null, ...answer });
  }

  refuse(status: number, code: string, retryAfter: string | null = null): void {
    const error = { code, error: `This is ${code}.`, timestamp: 0, recoverable: true, help: "Help." };
    this.answer({ status, body: JSON.stringify(error), retryAfter });
  }

  breakOff(): void {
    if (!this.isAborted) this.#events.ended(null);
  }

  unreadable(): void {
    if (!this.isAborted) this.#events.unreadable();
  }
}

/** A file, and what the server says of it. */
export interface FakeFile extends FileSource {
  readonly media_type?: string;
  readonly sha256?: string;
}

export class FakeFiles {
  readonly uploads: FakeUpload[] = [];
  /** False: the test answers. */
  isAutomatic = true;
  readonly #clock: Clock;

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  readonly upload = (request: UploadRequest, events: UploadEvents): (() => void) => {
    const upload = new FakeUpload(request, events, this.uploads.length + 1);
    this.uploads.push(upload);
    if (this.isAutomatic) this.#clock.timers.setTimeout(() => upload.answer(), 1);
    return () => {
      upload.isAborted = true;
    };
  };

  /** The newest upload. */
  get last(): FakeUpload {
    const last = this.uploads.at(-1);
    if (last === undefined) throw new Error("there is no upload");
    return last;
  }
}

/** The files of a message as the server names them. */
export const listed = (attachments?: readonly string[]): Pick<HistoryMessage, "attachments" | "files"> =>
  attachments === undefined
    ? {}
    : { attachments, files: attachments.map((file_id) => ({ file_id, name: `${file_id}.png`, media_type: "image/png", bytes: 7 })) };
