/** One upload: its attempts, each with the whole file, until the server has it or refuses it. */

import type { FileEndpoints } from "../connection/files.js";
import { OpeningError } from "../connection/opening.js";
import { afterStatus } from "../core/retry-rules.js";
import {
  STALLED_AFTER,
  unreadable,
  UploadTries,
  type FileSource,
  type UploadedFile,
  type UploadOptions,
  type UploadRetry,
} from "../core/uploads.js";
import type { Cancel, HttpAnswer, Ports } from "../ports.js";
import type { ErrorBody } from "../protocol/messages.js";
import { userChanged } from "./errors.js";
import { runCallback } from "./listeners.js";

export type UploadResult = { readonly file: UploadedFile } | { readonly error: ErrorBody };

export class RunningUpload {
  readonly #ports: Ports;
  readonly #endpoints: FileEndpoints;
  readonly #file: FileSource;
  readonly #options: UploadOptions;
  readonly #done: (result: UploadResult) => void;
  readonly #tries = new UploadTries();
  readonly #unlisten: readonly Cancel[];
  /** Ends the request of this attempt. */
  #request: Cancel | null = null;
  #timer: Cancel | null = null;
  #retry: UploadRetry | null = null;
  #sent = 0;
  /** The user of the first attempt. */
  #subject: string | null | undefined;
  /** Whether the server has refused a token of this upload. */
  #wasRefused = false;
  #isOver = false;

  constructor(
    ports: Ports,
    endpoints: FileEndpoints,
    file: FileSource,
    options: UploadOptions,
    done: (result: UploadResult) => void,
  ) {
    this.#ports = ports;
    this.#endpoints = endpoints;
    this.#file = file;
    this.#options = options;
    this.#done = done;
    const retryNow = (): void => {
      if (this.#retry !== null && this.#retry.error.code !== "RATE_LIMIT_EXCEEDED") void this.#attempt();
    };
    this.#unlisten = [ports.onPage("online", retryNow), ports.onPage("visible", retryNow)];
    void this.#attempt();
  }

  fail(error: ErrorBody): void {
    this.#finish({ error });
  }

  get #name(): string {
    return this.#options.name ?? this.#file.name ?? "";
  }

  async #attempt(): Promise<void> {
    this.#stopAttempt();
    const isFirst = this.#retry === null && this.#sent === 0;
    this.#retry = null;
    if (!isFirst) this.#report(0);
    let credential: Awaited<ReturnType<FileEndpoints["token"]>>;
    try {
      credential = await this.#endpoints.token();
    } catch (error) {
      if (!(error instanceof OpeningError)) throw error;
      this.#again(error, false);
      return;
    }
    if (this.#isOver) return;
    this.#subject ??= credential.subject;
    if (this.#subject !== credential.subject) {
      this.fail(userChanged(this.#ports.timers.now()));
      return;
    }
    this.#send(credential.token);
  }

  #send(token: string | null): void {
    const { upload } = this.#ports;
    const request = this.#endpoints.uploadRequest(token, this.#file, this.#name);
    this.#watch();
    this.#request =
      upload?.({ ...request, file: this.#file }, {
        progress: (sent) => {
          this.#watch();
          this.#report(Math.min(sent, this.#file.size));
        },
        ended: (answer) => this.#ended(answer),
        unreadable: () => this.fail(unreadable(this.#ports.timers.now())),
      }) ?? null;
  }

  /** `QUEUE_FULL` is not retried: the files of the user take all their space, and waiting frees none. */
  #ended(answer: HttpAnswer | null): void {
    this.#stopAttempt();
    const result = this.#endpoints.uploaded(answer, this.#name);
    if (!(result instanceof OpeningError)) {
      this.#finish({ file: result });
    } else if (answer !== null && afterStatus(answer.status) === "fresh" && !this.#wasRefused) {
      this.#wasRefused = true;
      void this.#attempt();
    } else if (result.isRetryable && result.body.code !== "QUEUE_FULL") {
      this.#again(result, this.#sent > 0 || answer !== null);
    } else {
      this.fail(result.body);
    }
  }

  #again({ body, retryAfter }: OpeningError, hasBegun: boolean): void {
    if (this.#isOver) return;
    const delay = this.#tries.next(body, hasBegun, retryAfter, this.#ports.random());
    if (delay === null) {
      this.fail(body);
      return;
    }
    this.#retry = { at: this.#ports.timers.now() + delay, error: body };
    this.#timer = this.#ports.timers.setTimeout(() => void this.#attempt(), delay);
    // The application may abort the upload when it is told.
    this.#report(0);
  }

  /** Ends an attempt that makes no progress. */
  #watch(): void {
    this.#timer?.();
    this.#timer = this.#ports.timers.setTimeout(() => this.#ended(null), STALLED_AFTER);
  }

  /** Ends the request and the timer, if there are any. */
  #stopAttempt(): void {
    this.#request?.();
    this.#request = null;
    this.#timer?.();
    this.#timer = null;
  }

  #report(sent: number): void {
    this.#sent = sent;
    const progress = { sent, total: this.#file.size, retry: this.#retry };
    runCallback(this.#ports.timers, () => this.#options.onProgress?.(progress));
  }

  #finish(result: UploadResult): void {
    if (this.#isOver) return;
    this.#isOver = true;
    this.#stopAttempt();
    for (const cancel of this.#unlisten) cancel();
    this.#done(result);
  }
}
