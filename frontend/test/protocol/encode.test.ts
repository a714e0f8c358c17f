import { expect, it } from "vitest";
import { outgoingFault } from "../../src/protocol/encode.js";
import { utf8Bytes } from "../../src/protocol/utf8.js";

it("measures text as UTF-8", () => {
  for (const text of ["", "abc", "ä€", "😀", "a😀ß"]) expect(utf8Bytes(text)).toBe(Buffer.byteLength(text));
});

it.each(["more", "constructor"])("rejects the unknown field %s", (field) => {
  const payload = { thread_id: "t", content: "hello" };
  expect(outgoingFault({ type: "user_message", payload })).toBeNull();
  expect(outgoingFault({ type: "user_message", payload: { ...payload, [field]: 1 } })).toBe(`$.payload.${field}: unknown field`);
});
