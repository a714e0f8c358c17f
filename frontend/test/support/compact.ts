/** `netra.v2` as a server speaks it on one socket: short frames for text, and bytes in binary frames. */

import type { ClientMessage, ResumedRun, ServerMessage } from "../../src/index.js";

export const INLINE_BYTES = 256 * 1024; // beyond it a server sends only the reference

type WithData = ServerMessage & { readonly data?: ArrayBuffer };

export class CompactWriter {
  readonly #numbers = new Map<string, number>();
  #named: string | null = null;
  #count = 0;

  /** The frame of a message of `netra.v1`. */
  frame(message: unknown): string | ArrayBuffer {
    const { data, ...plain } = message as WithData;
    if (plain.type === "connection_established") {
      const numbered = (run: ResumedRun): ResumedRun => ({ ...run, run: this.#number(run.run_id) });
      const { resume } = plain.payload;
      const runs = resume.runs.map(numbered);
      return JSON.stringify({ ...plain, payload: { ...plain.payload, resume: { ...resume, runs } } });
    }
    if (plain.type === "agent_started") {
      this.#named = plain.payload.run_id;
      return JSON.stringify({ ...plain, payload: { ...plain.payload, run: this.#number(plain.payload.run_id) } });
    }
    if (plain.type === "partial_result") return this.#delta(plain) ?? JSON.stringify(plain);
    if (plain.type === "agent_completed") {
      const { run_id } = plain.payload;
      this.#numbers.delete(run_id);
      if (this.#named === run_id) this.#named = null;
    }
    const isInline = data !== undefined && data.byteLength <= INLINE_BYTES;
    return isInline ? binaryFrame(JSON.stringify(plain), new Uint8Array(data)) : JSON.stringify(plain);
  }

  #delta({ payload, seq, seq_from }: Extract<ServerMessage, { type: "partial_result" }>): string | null {
    const { run_id, content } = payload;
    const number = this.#numbers.get(run_id);
    if (seq_from === undefined && run_id === this.#named) return JSON.stringify([seq, content]);
    if (number === undefined) return null;
    return JSON.stringify(seq_from === undefined ? [seq, content, number] : [seq, content, number, seq_from]);
  }

  #number(run: string): number {
    const known = this.#numbers.get(run);
    if (known !== undefined) return known;
    this.#count += 1;
    this.#numbers.set(run, this.#count);
    return this.#count;
  }
}

/** @param length What the frame states as the length of its JSON; by default that is true. */
export function binaryFrame(json: string | Uint8Array, bytes: Uint8Array, length?: number): ArrayBuffer {
  const head = typeof json === "string" ? new TextEncoder().encode(json) : json;
  const frame = new Uint8Array(4 + head.length + bytes.length);
  new DataView(frame.buffer).setUint32(0, length ?? head.length);
  frame.set(head, 4);
  frame.set(bytes, 4 + head.length);
  return frame.buffer;
}

/** The message of a client's frame, and its bytes. */
export function readFrame(data: string | ArrayBuffer): { message: ClientMessage; bytes: Uint8Array | null } {
  if (typeof data === "string") return { message: JSON.parse(data) as ClientMessage, bytes: null };
  const end = 4 + new DataView(data).getUint32(0);
  const json = new TextDecoder("utf-8", { fatal: true }).decode(new Uint8Array(data, 4, end - 4));
  return { message: JSON.parse(json) as ClientMessage, bytes: new Uint8Array(data.slice(end)) };
}
