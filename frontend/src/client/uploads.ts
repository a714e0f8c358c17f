/** The uploads of a client, and the names of the files that it knows. */

import { FileEndpoints } from "../connection/files.js";
import type { GetToken } from "../connection/opening.js";
import { BoundedMap } from "../core/bounded-map.js";
import type { OutboxMessage } from "../core/outbox.js";
import { aborted, tooLarge, unsupported, type FileSource, type Upload, type UploadOptions } from "../core/uploads.js";
import type { Ports } from "../ports.js";
import type { ServerConfig } from "../protocol/discovery.js";
import type { ErrorBody, ListedFile } from "../protocol/messages.js";
import { RequestError } from "./api.js";
import { clientClosed, userChanged } from "./errors.js";
import { RunningUpload } from "./upload.js";

const KNOWN = 500; // files: more than the messages that are not sent yet have

export class ClientUploads {
  readonly #ports: Ports;
  readonly endpoints: FileEndpoints;
  readonly #running = new Set<RunningUpload>();
  readonly #known = new BoundedMap<string, ListedFile>(KNOWN);
  #isClosed = false;

  /**
   * @param server The address of the discovery document.
   * @param config Returns null before the configuration is known.
   */
  constructor(ports: Ports, server: string, getToken: GetToken | null, config: () => ServerConfig | null) {
    this.#ports = ports;
    this.endpoints = new FileEndpoints(ports, { server, getToken, config });
  }

  start(file: FileSource, options: UploadOptions = {}): Upload {
    let abort = (): void => undefined;
    const done = new Promise<Awaited<Upload["done"]>>((resolve, reject) => {
      const fault = this.#fault(file);
      if (fault !== null) {
        reject(new RequestError(fault));
        return;
      }
      const running = new RunningUpload(this.#ports, this.endpoints, file, options, (result) => {
        this.#running.delete(running);
        if ("error" in result) {
          reject(new RequestError(result.error));
          return;
        }
        this.know(result.file);
        resolve(result.file);
      });
      this.#running.add(running);
      abort = () => running.fail(aborted(this.#ports.timers.now()));
    });
    // An application that only follows the progress of an upload need not handle its end.
    done.catch(() => undefined);
    return { done, abort: () => abort() };
  }

  /** Remembers how a file is shown. */
  know({ file_id, name, media_type, bytes }: ListedFile): void {
    this.#known.set(file_id, { file_id, name, media_type, bytes });
  }

  /** A message with its files, as far as they are known. */
  described({ key, message }: OutboxMessage): OutboxMessage {
    const { attachments = [] } = message.payload;
    if (attachments.length === 0) return { key, message };
    return { key, message, files: attachments.flatMap((id) => this.#known.get(id) ?? []) };
  }

  /** Another user is logged in. */
  reset(): void {
    this.#failAll(userChanged(this.#ports.timers.now()));
    this.#known.clear();
  }

  close(): void {
    this.#isClosed = true;
    this.#failAll(clientClosed(this.#ports.timers.now()));
  }

  #failAll(error: ErrorBody): void {
    for (const running of [...this.#running]) running.fail(error);
  }

  #fault({ size }: FileSource): ErrorBody | null {
    const now = this.#ports.timers.now();
    const { maxSize = Infinity } = this.endpoints;
    if (this.#isClosed) return clientClosed(now);
    if (maxSize === null || this.#ports.upload === undefined) return unsupported(now);
    return size > maxSize ? tooLarge(size, maxSize, now) : null;
  }
}
