/** The server's endpoints for files: requests with a token, and addresses with a ticket. */

import type { ServerConfig } from "../protocol/discovery.js";
import { asHttpAddress } from "../protocol/discovery.js";
import { isObject, must, name, object, text, integer, type Shape } from "../protocol/check.js";
import { subjectOf } from "../core/names.js";
import { afterStatus, localError } from "../core/retry-rules.js";
import { brokenOff, type FileSource, type UploadedFile } from "../core/uploads.js";
import type { HttpAnswer, Ports } from "../ports.js";
import { ANSWER_WITHIN, ask, obtainToken, OpeningError, parse, rejected, type GetToken } from "./opening.js";

/** A request that reads a file; its address is of no use without the headers. */
export interface FileRequest {
  readonly url: string;
  readonly headers: Readonly<Record<string, string>>;
}

export interface FilesOptions {
  /** The address of the discovery document. */
  readonly server: string;
  readonly getToken: GetToken | null;
  /** Null before it is known. */
  readonly config: () => ServerConfig | null;
}

const UPLOADED: Shape<Omit<UploadedFile, "name">> = {
  file_id: must(name),
  media_type: must(name),
  bytes: must(integer(0)),
  sha256: must(text),
};

export class FileEndpoints {
  readonly #ports: Ports;
  readonly #options: FilesOptions;

  constructor(ports: Ports, options: FilesOptions) {
    this.#ports = ports;
    this.#options = options;
  }

  /** The largest file in bytes; null if the server accepts none; undefined before that is known. */
  get maxSize(): number | null | undefined {
    const config = this.#options.config();
    return config === null ? undefined : (config.connection_limits.max_file_size ?? null);
  }

  /** A token, and its user; null without tokens. Rejects with `OpeningError`. */
  async token(): Promise<{ readonly token: string | null; readonly subject: string | null }> {
    const { getToken } = this.#options;
    if (getToken === null) return { token: null, subject: null };
    const token = await obtainToken(() => this.#ports.timers.now(), getToken);
    return { token, subject: subjectOf(token) };
  }

  uploadRequest(token: string | null, file: FileSource, name: string): FileRequest {
    // An address with the name would be in the logs of proxies.
    const named = { "Content-Disposition": `attachment; filename*=UTF-8''${encodeName(name)}` };
    const headers = { "Content-Type": file.type === "" ? "application/octet-stream" : file.type, ...(name === "" ? {} : named) };
    return { url: this.#endpoint("files"), headers: { ...headers, ...credential(token) } };
  }

  /** The file of an answer, or why there is none. */
  uploaded(answer: HttpAnswer | null, name: string): UploadedFile | OpeningError {
    const now = this.#ports.timers.now();
    if (answer === null) return new OpeningError(brokenOff(now), true);
    if (answer.status !== 200) return rejected(this.#ports, answer);
    const body = parse(answer.body);
    if (object(UPLOADED)(body, "$") === null) return { ...(body as Omit<UploadedFile, "name">), name };
    const help = "Check the proxies between this page and the server.";
    return new OpeningError(localError(now, "BAD_ANSWER", "The server sent no file id.", help), true);
  }

  /** Rejects with `OpeningError`. */
  async readRequest(fileId: string): Promise<FileRequest> {
    const { token } = await this.token();
    return { url: this.#addressOf(fileId), headers: credential(token) };
  }

  /** The address of a file with a ticket, which a link can use. Rejects with `OpeningError`. */
  async address(fileId: string): Promise<string> {
    let answer = await this.#askTicket(fileId);
    if (afterStatus(answer.status) === "fresh") answer = await this.#askTicket(fileId);
    if (answer.status !== 200) throw rejected(this.#ports, answer);
    const body = parse(answer.body);
    const ticket = isObject(body) ? body["ticket"] : null;
    if (typeof ticket === "string" && ticket !== "") return `${this.#addressOf(fileId)}?ticket=${encodeURIComponent(ticket)}`;
    const help = "Check the proxies between this page and the server.";
    throw new OpeningError(localError(this.#ports.timers.now(), "BAD_ANSWER", "The server sent no ticket.", help), true);
  }

  async #askTicket(file_id: string): Promise<HttpAnswer> {
    const { token } = await this.token();
    return ask(this.#ports, {
      method: "POST",
      url: this.#endpoint("ticket"),
      headers: { "Content-Type": "application/json", ...credential(token) },
      body: JSON.stringify({ file_id }),
      timeout_ms: ANSWER_WITHIN,
    });
  }

  #addressOf(fileId: string): string {
    return `${this.#endpoint("files")}/${encodeURIComponent(fileId)}`;
  }

  #endpoint(name: "files" | "ticket"): string {
    const { config, server } = this.#options;
    const address = config()?.endpoints[name] ?? server.replace(/config$/, name);
    return this.#ports.resolve(asHttpAddress(address), server);
  }
}

const credential = (token: string | null): Readonly<Record<string, string>> =>
  token === null ? {} : { Authorization: `Bearer ${token}` };

/** A name as an extended parameter of a header: RFC 8187. */
const encodeName = (name: string): string =>
  encodeURIComponent(name.replace(/\p{Surrogate}/gu, "\ufffd")).replace(/['()*]/g, (character) => `%${character.charCodeAt(0).toString(16).toUpperCase()}`);
