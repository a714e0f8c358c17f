/** Binary frames of `netra.v2`: 4 bytes with the length of a JSON frame, big-endian; that frame; bytes. */

import { fromUtf8, toUtf8, utf8Bytes } from "./utf8.js";

const HEAD = 4; // bytes

export interface BinaryFrame {
  /** The JSON frame, as text. */
  readonly json: string;
  readonly data: ArrayBuffer;
}

/** The parts of a binary frame; a text is the fault of one that has none. */
export function readBinary(frame: ArrayBuffer): BinaryFrame | string {
  if (frame.byteLength < HEAD) return `$: expected at least ${HEAD} bytes, got ${frame.byteLength}`;
  const length = new DataView(frame).getUint32(0);
  const end = HEAD + length;
  if (end > frame.byteLength) return `$: expected a JSON frame of ${length} bytes, got ${frame.byteLength - HEAD}`;
  try {
    return { json: fromUtf8(new Uint8Array(frame, HEAD, length)), data: frame.slice(end) };
  } catch {
    return "$: expected UTF-8";
  }
}

/** The length of a binary frame in bytes. */
export const binarySize = (json: string, data: ArrayBuffer): number => HEAD + utf8Bytes(json) + data.byteLength;

export function writeBinary(json: string, data: ArrayBuffer): ArrayBuffer {
  const head = toUtf8(json);
  const frame = new Uint8Array(HEAD + head.length + data.byteLength);
  new DataView(frame.buffer).setUint32(0, head.length);
  frame.set(head, HEAD);
  frame.set(new Uint8Array(data), HEAD + head.length);
  return frame.buffer;
}
