import { expect, it } from "vitest";
import { binarySize, readBinary, writeBinary } from "../../src/protocol/binary.js";
import { fromUtf8, toUtf8, utf8Bytes } from "../../src/protocol/utf8.js";
import { binaryFrame } from "../support/compact.js";
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
