import { describe, expect, it } from "vitest";
import { EventStreamReader, type StreamEvent } from "../../src/protocol/sse.js";

const read = (...pieces: string[]): StreamEvent[] => {
  const reader = new EventStreamReader();
  return pieces.flatMap((piece) => reader.read(piece));
};
const message = (data: string, id: string | null = null): StreamEvent => ({ type: "message", data, id });

const STREAM = `: a comment\n\nid: 7\ndata: {"text": "ä😀: x"}\n\nevent: close\ndata: {"code": 1012}\n\ndata: one\ndata:  two\ndata\n\n`;
const EVENTS = [
  message(`{"text": "ä😀: x"}`, "7"),
  { type: "close", data: `{"code": 1012}`, id: null },
  message("one\n two\n"),
];

describe("a stream of events", () => {
  for (const [name, end] of [["LF", "\n"], ["CRLF", "\r\n"], ["CR", "\r"]] as const) {
    // A stream that ends with CR alone waits for what may be the second half of the line's end.
    const stream = STREAM.replaceAll("\n", end) + (end === "\r" ? ":" : "");

    it(`with ${name} is read however it is cut`, () => {
      expect(read(stream)).toEqual(EVENTS);
      expect(read(...stream.split(""))).toEqual(EVENTS);
      for (let at = 0; at <= stream.length; at += 1) expect(read(stream.slice(0, at), stream.slice(at))).toEqual(EVENTS);
    });

    it(`with ${name} has no event that is not complete`, () => {
      for (let at = 0; at < stream.length; at += 1) {
        const events = read(stream.slice(0, at));
        expect(events).toEqual(EVENTS.slice(0, events.length));
      }
    });
  }

  it("may begin with a byte order mark", () => {
    expect(read("\uFEFFdata: a\n\n")).toEqual([message("a")]);
    expect(read("", "\uFEFF", "data: a\n\n")).toEqual([message("a")]);
  });

  it("has no event without data, and ignores unknown fields", () => {
    expect(read("id: 1\nevent: close\n\nretry: 5\nother\ndata:a\n\n")).toEqual([message("a")]);
  });
});
