/**
 * Several uploads, for the files of one message: a state that changes, as an application shows it.
 *
 *     const list = client.createUploads();
 *     list.subscribe(() => show(list.getSnapshot()));
 *     list.add(input.files);
 */

import { ATTACHMENTS } from "../protocol/encode.js";
import type { ErrorBody, ListedFile } from "../protocol/messages.js";
import { tooMany, type FileSource, type Upload, type UploadedFile, type UploadItem } from "../core/uploads.js";
import type { Ports } from "../ports.js";
import { RequestError, type UploadList } from "./api.js";
import { USER_CHANGED } from "./errors.js";
import { runCallback } from "./listeners.js";
import type { ClientUploads } from "./uploads.js";

const AT_ONCE = 3; // a browser has six connections to a server

export class UploadListState implements UploadList {
  readonly #ports: Pick<Ports, "timers" | "uniqueId">;
  readonly #uploads: ClientUploads;
  readonly #running = new Map<string, Upload>();
  readonly #listeners = new Set<() => void>();
  /** The digest and the name of each file that this list has uploaded. */
  readonly #contents = new Map<string, string>();
  #items: readonly UploadItem[] = [];

  constructor(ports: Pick<Ports, "timers" | "uniqueId">, uploads: ClientUploads) {
    this.#ports = ports;
    this.#uploads = uploads;
  }

  readonly getSnapshot = (): readonly UploadItem[] => this.#items;

  readonly subscribe = (listener: () => void): (() => void) => {
    const own = (): void => listener();
    this.#listeners.add(own);
    return () => void this.#listeners.delete(own);
  };

  add(files: Iterable<FileSource>): void {
    for (const source of files) {
      const { name = "", type: media_type, size: bytes } = source;
      const item = { key: this.#ports.uniqueId(), name, media_type, bytes, sent: 0, source, file: null };
      this.#items = [...this.#items, this.#queued(item)];
    }
    this.#changed();
  }

  restore(files: Iterable<ListedFile>): void {
    for (const file of files) {
      if (this.#items.some((item) => item.file?.file_id === file.file_id)) continue;
      this.#uploads.know(file);
      const { name, media_type, bytes } = file;
      const rest = { sent: bytes, source: null, file, retry: null, error: null };
      this.#items = [...this.#items, { key: this.#ports.uniqueId(), status: "done", name, media_type, bytes, ...rest }];
    }
    this.#changed();
  }

  remove(key: string): void {
    this.#running.get(key)?.abort();
    this.#drop(key);
    this.#changed();
  }

  retry(key: string): void {
    const failed = this.#items.find((item) => item.key === key && item.status === "failed");
    if (failed !== undefined) this.#set(key, this.#queued(failed));
    this.#changed();
  }

  clear(): void {
    for (const upload of this.#running.values()) upload.abort();
    this.#running.clear();
    this.#contents.clear();
    this.#items = [];
    this.#changed();
  }

  /** A file that waits for its upload, unless there are too many. */
  #queued(item: Omit<UploadItem, "status" | "retry" | "error">): UploadItem {
    const others = this.#items.filter(({ status }) => status !== "failed");
    const isFull = others.length >= ATTACHMENTS;
    const error = isFull ? tooMany(this.#ports.timers.now()) : null;
    return { ...item, status: isFull ? "failed" : "waiting", sent: 0, retry: null, error };
  }

  /** Begins the uploads that are due, and calls the listeners. */
  #changed(): void {
    for (const { key, status, source } of this.#items) {
      if (this.#running.size >= AT_ONCE) break;
      if (status === "waiting" && source !== null) this.#begin(key, source);
    }
    for (const listener of [...this.#listeners]) runCallback(this.#ports.timers, listener);
  }

  #begin(key: string, source: FileSource): void {
    this.#set(key, { status: "uploading" });
    const upload = this.#uploads.start(source, {
      onProgress: ({ sent, retry }) => {
        this.#set(key, { status: retry === null ? "uploading" : "retrying", sent, retry });
        this.#changed();
      },
    });
    this.#running.set(key, upload);
    // It may have been removed meanwhile.
    const end = (finish: () => void): void => {
      if (this.#running.get(key) !== upload) return;
      this.#running.delete(key);
      finish();
      this.#changed();
    };
    upload.done.then(
      (uploaded) => end(() => this.#done(key, uploaded)),
      (error: unknown) => {
        if (!(error instanceof RequestError)) throw error;
        end(() => this.#failed(key, error.body));
      },
    );
  }

  #done(key: string, { sha256, ...file }: UploadedFile): void {
    const content = `${sha256} ${file.name}`;
    const isKnown = this.#items.some((item) => this.#contents.get(item.key) === content);
    if (isKnown) {
      // A message names each file once.
      this.#drop(key);
      return;
    }
    this.#contents.set(key, content);
    const { media_type, bytes } = file;
    this.#set(key, { status: "done", media_type, bytes, sent: bytes, retry: null, file });
  }

  #failed(key: string, error: ErrorBody): void {
    const change = { status: "failed", sent: 0, retry: null, error } as const;
    this.#set(key, change);
    if (error.code !== USER_CHANGED) return;
    // The files that wait were chosen by the same user.
    for (const item of this.#items) if (item.status === "waiting") this.#set(item.key, change);
  }

  #set(key: string, change: Partial<UploadItem>): void {
    this.#items = this.#items.map((item) => (item.key === key ? { ...item, ...change } : item));
  }

  #drop(key: string): void {
    this.#running.delete(key);
    this.#contents.delete(key);
    this.#items = this.#items.filter((item) => item.key !== key);
  }
}
