import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { binarySize, readBinary, writeBinary } from "../../src/protocol/binary.js";
import { dataFault, encode, outgoingFault } from "../../src/protocol/encode.js";
import type { ClientMessage } from "../../src/protocol/messages.js";
import { FrameReader } from "../../src/protocol/reader.js";
import { fromUtf8, toUtf8, utf8Bytes } from "../../src/protocol/utf8.js";
import { binaryFrame, readFrame } from "../support/compact.js";
import { Random } from "../support/random.js";

it("encodes and decodes UTF-8 as the browser does", () => {
  for (let seed = 0; seed < 200; seed += 1) {
    const text = new Random(seed).text(20).replace(/[\ud800-\udfff]/gu, "\ufffd"); // as in JSON
    const bytes = new TextEncoder().encode(text);
    expect(toUtf8(text)).toEqual([...bytes]);
    expect(fromUtf8(bytes)).toBe(text);
    expect(utf8Bytes(text)).toBe(bytes.length);
  }
});

it.each([[0xff], [0xc0, 0x80], [0xed, 0xa0, 0x80], [0xf0, 0x9f, 0x98], [0xf4, 0x90, 0x80, 0x80]])("rejects bytes that are no UTF-8: %j", (...bytes) => {
  expect(() => fromUtf8(bytes)).toThrow(URIError);
});

it("writes and reads the same frame, whose size is known before", () => {
  for (let seed = 0; seed < 200; seed += 1) {
    const random = new Random(seed);
    const json = JSON.stringify({ text: random.text(20) });
    const { buffer: data } = random.bytes(50);
    const frame = writeBinary(json, data);
    expect(frame).toEqual(binaryFrame(json, new Uint8Array(data)));
    expect(frame.byteLength).toBe(binarySize(json, data));
    expect(readBinary(frame)).toEqual({ json, data });
  }
});

interface Example {
  readonly name: string;
  /** Base64. */
  readonly binary: string;
}

const golden = <T>(name: string): (Example & T)[] =>
  JSON.parse(readFileSync(new URL(`../../../tests/golden/${name}_v2_binary.json`, import.meta.url), "utf8")) as (Example & T)[];

/** The bytes of a frame as a socket delivers them. */
const bytesOf = ({ binary }: Example): ArrayBuffer => Uint8Array.from(Buffer.from(binary, "base64")).buffer;

describe("a binary frame of the server", () => {
  it.each(golden<{ frame: object | null; data?: string }>("server_to_client"))("$name", (example) => {
    const { frame, data = "" } = example;
    const decoded = new FrameReader({ protocol: "netra.v2" }, () => 0).read(bytesOf(example));
    expect(decoded.ok).toBe(frame !== null);
    if (!decoded.ok || frame === null) return;
    const { data: bytes, ...message } = decoded.message as typeof decoded.message & { data: ArrayBuffer };
    expect(message).toEqual(frame);
    expect(Buffer.from(bytes).toString("base64")).toBe(data);
  });
});

describe("a binary frame of a client", () => {
  const examples = golden<{ valid: boolean }>("client_to_server");
  const valid = examples.filter((example) => example.valid);

  it.each(valid)("$name: is written in the same way", (example) => {
    const { message, bytes } = readFrame(bytesOf(example));
    const { attachments, ...payload } = message.payload as { attachments: { media_type: string }[] };
    const media_type = attachments[0]?.media_type ?? "";
    const data = Uint8Array.from(bytes ?? []).buffer;
    expect(outgoingFault({ ...message, payload }) ?? dataFault(message.type, payload, { media_type, bytes: data })).toBeNull();
    const frame = encode({ ...message, payload, data: { media_type, bytes: data } } as ClientMessage, 1);
    if (typeof frame === "string") throw new Error("a text frame");
    expect(readFrame(frame)).toEqual({ message: { ...message, timestamp: 1 }, bytes });
  });

  it("has no other form", () => {
    expect(valid.length).toBeGreaterThan(3);
    for (const example of examples.filter((one) => !one.valid)) {
      const parts = readBinary(bytesOf(example));
      if (typeof parts === "string") continue;
      let message: { type?: string; payload?: { attachments?: { media_type?: unknown }[] } };
      try {
        message = JSON.parse(parts.json) as typeof message;
      } catch {
        continue;
      }
      const { attachments = [], ...payload } = message.payload ?? {};
      const [file] = attachments;
      // What the server refuses, the client cannot write, or refuses before.
      const isWritable = attachments.length === 1 && JSON.stringify(Object.keys(file ?? {})) === '["media_type"]';
      const fault =
        outgoingFault({ ...message, payload }) ??
        dataFault(message.type ?? "", payload, { media_type: file?.media_type, bytes: parts.data });
      expect(isWritable && fault === null, example.name).toBe(false);
    }
  });
});
