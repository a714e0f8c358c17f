/** A WebSocket of a page, whose other side a test, or the server in memory, has. */

import type { Socket } from "../../src/index.js";
import { CompactWriter } from "./compact.js";

export class FakeSocket implements Socket {
  readonly url: string;
  readonly protocols: string[];
  protocol = "";
  state: "connecting" | "open" | "closed" = "connecting";
  session = "";
  isClosing = false;
  closedWith: number | undefined;
  onopen: Socket["onopen"] = null;
  onmessage: Socket["onmessage"] = null;
  onclose: Socket["onclose"] = null;
  onerror: Socket["onerror"] = null;
  binaryType = "blob";
  onData: (data: string | ArrayBuffer) => void = () => undefined;
  cancelExpiry: () => void = () => undefined;
  /** Counts down with each frame; at 0 the connection is cut after that frame. */
  framesLeft = Infinity;

  constructor(url: string, protocols: string[] = []) {
    this.url = url;
    this.protocols = protocols;
  }

  /** As in a browser: 2 once the other side closes, while its last frames still arrive. */
  get readyState(): number {
    return this.state === "open" ? (this.isClosing ? 2 : 1) : this.state === "connecting" ? 0 : 3;
  }

  get query(): URLSearchParams {
    return new URL(this.url).searchParams;
  }

  send(data: string | ArrayBuffer): void {
    if (this.readyState !== 1) throw new Error("the socket is not open");
    // Handled later: frames that are already in flight arrive first.
    queueMicrotask(() => {
      if (this.state === "open") this.onData(data);
    });
  }

  close(code?: number): void {
    if (this.state === "closed") return;
    this.closedWith = code;
    this.drop(code ?? 1005);
  }

  readonly #compact = new CompactWriter();

  deliver(message: unknown): void {
    if (this.protocol === "netra.v2") this.deliverText(this.#compact.frame(message));
    else this.deliverText(JSON.stringify({ ...(message as object), data: undefined }));
  }

  deliverText(data: unknown): void {
    if (this.state !== "open" || this.framesLeft <= 0) return;
    this.framesLeft -= 1;
    this.onmessage?.({ data });
    if (this.framesLeft <= 0) this.drop(1006);
  }

  /** The connection ends, by the server or by the network. */
  drop(code: number): void {
    if (this.state === "closed") return;
    this.state = "closed";
    this.cancelExpiry();
    this.onclose?.({ code });
  }
}
