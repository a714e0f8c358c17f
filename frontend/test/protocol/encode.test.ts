import { expect, it } from "vitest";
import { utf8Bytes } from "../../src/protocol/encode.js";

it("measures text as UTF-8", () => {
  for (const text of ["", "abc", "ä€", "😀", "a😀ß"]) expect(utf8Bytes(text)).toBe(Buffer.byteLength(text));
});
