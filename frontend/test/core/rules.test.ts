import { describe, expect, it } from "vitest";
import { discoveryAddress, readConfig } from "../../src/protocol/discovery.js";
import { utf8Bytes } from "../../src/protocol/encode.js";
import { fullJitter } from "../../src/core/backoff.js";
import { ACK_EVERY, EventSequence } from "../../src/core/sequence.js";
import { withPage } from "../../src/core/history.js";
import { subjectOf, toBase64Url } from "../../src/core/names.js";
import { Outbox, OUTBOX_MESSAGES, readMessages, type OutboxMessage } from "../../src/core/outbox.js";
import { RateWindow } from "../../src/core/rate.js";
import { afterStatus, closeKind, retryAfterMs } from "../../src/core/retry-rules.js";
import { Stats } from "../../src/core/stats.js";
import { tokenFor } from "../support/server.js";

const entry = (key: string): OutboxMessage => ({
  key,
  message: { type: "user_message", payload: { content: key }, correlation_id: key },
});

describe("back-off", () => {
  it("spreads over the whole span, which doubles up to 30 s", () => {
    expect([1, 2, 3, 6, 60].map((n) => fullJitter(n, 1_000, 0))).toEqual([0, 0, 0, 0, 0]);
    expect([1, 2, 3, 6, 60].map((n) => fullJitter(n, 1_000, 0.5))).toEqual([500, 1_000, 2_000, 15_000, 15_000]);
  });
});

describe("retry tables", () => {
  it("decide on the code", () => {
    const codes = [1000, 1001, 1005, 1006, 1009, 1011, 1012, 4400, 4401, 4403, 4408, 4409, 4429, 4999];
    expect(codes.map((code) => closeKind(code).after)).toEqual([
      "done", "retry", "stop", "retry", "stop", "retry", "retry", "stop", "token", "stop", "retry", "stop", "stop", "stop",
    ]);
    expect([400, 401, 403, 404, 429, 500, 502, 503].map(afterStatus)).toEqual([
      "stop", "fresh", "stop", "stop", "retry", "retry", "retry", "retry",
    ]);
  });

  it("read Retry-After as seconds or as a date", () => {
    const now = Date.parse("2026-01-01T00:00:00Z");
    expect(retryAfterMs("12", now)).toBe(12_000);
    expect(retryAfterMs("Thu, 01 Jan 2026 00:00:05 GMT", now)).toBe(5_000);
    expect([null, "", "soon", "-1"].map((header) => retryAfterMs(header, now))).toEqual([0, 0, 0, 0]);
  });
});

describe("delivery", () => {
  it("takes each number once, in order, and knows a merged one", () => {
    const sequence = new EventSequence();
    sequence.startAfter(4);
    expect(sequence.place(4)).toBe("duplicate");
    expect(sequence.place(5)).toBe("next");
    expect(sequence.place(6)).toBe("gap");
    expect(sequence.place(9, 5)).toBe("next");
    expect(sequence.place(9, 4)).toBe("gap");
    sequence.take(9);
    expect(sequence.place(9, 5)).toBe("duplicate");
    expect(sequence.hasToAcknowledge).toBe(true);
    expect(sequence.acknowledge()).toBe(9);
    expect(sequence.hasToAcknowledge).toBe(false);
    sequence.take(9 + ACK_EVERY);
    expect(sequence.isAckDue).toBe(true);
  });
});

describe("the rate", () => {
  it("is so many in any minute", () => {
    const rate = new RateWindow();
    expect(rate.take(0)).toBe(0);
    rate.limit = 2;
    expect([0, 10_000, 20_000].map((now) => rate.take(now))).toEqual([0, 0, 40_000]);
    expect(rate.take(60_000)).toBe(0);
    expect(rate.take(60_001)).toBe(9_999);
  });
});

describe("the outbox", () => {
  it("keeps the order while one is held back", () => {
    const outbox = new Outbox();
    for (const key of ["a", "b"]) outbox.add(entry(key));
    expect(outbox.next(0)?.key).toBe("a");
    outbox.markSent("a");
    outbox.holdBack("a", 100);
    expect(outbox.next(99)).toBeNull();
    expect(outbox.wait(40)).toBe(60);
    expect(outbox.next(100)?.key).toBe("a");
    outbox.markSent("a");
    outbox.markSent("b");
    expect(outbox.next(100)).toBeNull();
    expect(outbox.connectionLost()).toEqual(["a", "b"]);
    expect(outbox.settle("a")?.key).toBe("a");
    expect(outbox.settle("a")).toBeNull();
    expect(outbox.next(100)?.key).toBe("b");
  });

  it("is bounded", () => {
    const outbox = new Outbox();
    for (let n = 0; n < OUTBOX_MESSAGES; n += 1) outbox.add(entry(`${n}`));
    expect(outbox.isFull).toBe(true);
  });

  it("reads back what it wrote, and nothing else", () => {
    expect(readMessages(JSON.stringify([entry("a")]))).toEqual([entry("a")]);
    for (const text of [null, "", "{", "{}", "5", '[{"key": "a"}]', '[{"key": "a", "message": {"type": "auth"}}]']) {
      expect(readMessages(text)).toEqual([]);
    }
    const renamed = { ...entry("a"), key: "b" };
    const wrong = { key: "c", message: { type: "user_message", payload: { text: "x" }, correlation_id: "c" } };
    expect(readMessages(JSON.stringify([renamed, wrong, entry("d")]))).toEqual([entry("d")]);
  });
});

describe("names", () => {
  it("read the subject of a token, whatever its letters", () => {
    for (const user of ["alice", "Zoë 😀", "a/b?c:d"]) expect(subjectOf(tokenFor(user))).toBe(user);
    for (const token of ["", "opaque", "a.b.c", "a.e30.c", "a.!!.c", "a.bnVsbA.c"]) expect(subjectOf(token)).toBeNull();
  });

  it("write base64url without padding", () => {
    for (const text of ["", "a", "ab", "abc", "abcd", "?>?>"]) {
      expect(toBase64Url(text)).toBe(Buffer.from(text).toString("base64url"));
    }
  });
});

describe("discovery", () => {
  it.each([
    ["https://h", "https://h/ws/config"],
    ["https://h/", "https://h/ws/config"],
    ["wss://h:8/ws", "https://h:8/ws/config"],
    ["ws://h/a/ws/?x#y", "http://h/a/ws/config"],
    ["https://h/ws/config", "https://h/ws/config"],
  ])("of %s is at %s", (url, config) => expect(discoveryAddress(url)).toBe(config));

  it("says what is wrong with the document", () => {
    expect(readConfig("no")).toBe("$: expected JSON");
    expect(readConfig("{}")).toContain("$.websocket_config");
    expect(readConfig('{"websocket_config": {"version": 1}}')).toBe(
      "$.websocket_config.version: expected a string, got 1",
    );
  });
});

describe("history", () => {
  const page = (...numbers: number[]): Parameters<typeof withPage>[1] =>
    numbers.map((n) => ({ message_id: `m${n}`, role: "user", content: `${n}`, created_at: n }));
  const numbers = (list: readonly { content: string }[]): number[] => list.map(({ content }) => Number(content));

  it.each([
    ["first", page(), page(1, 2), [1, 2]],
    ["older", page(3, 4), page(1, 2), [1, 2, 3, 4]],
    ["newer, overlapping", page(1, 2, 3), page(3, 4), [1, 2, 3, 4]],
    ["older, overlapping", page(3, 4, 5), page(2, 3), [2, 3, 4, 5]],
    ["the same", page(1, 2), page(1, 2), [1, 2]],
    ["newer, with nobody knows what in between", page(1, 2), page(8, 9), [8, 9]],
    ["empty", page(1), page(), [1]],
  ])("%s", (_, known, more, all) => expect(numbers(withPage(known, more))).toEqual(all));
});

describe("statistics", () => {
  it("average the time from a loss to the next connection", () => {
    const stats = new Stats();
    stats.connected(0, "c1");
    stats.lost(1_000);
    stats.lost(2_000);
    stats.connected(4_000, "c2");
    stats.lost(5_000);
    stats.connected(6_000, "c3");
    expect(stats.value).toMatchObject({ reconnections: 2, average_reconnection_ms: 2_000, connection_id: "c3" });
    stats.ended();
    stats.connected(9_000, "c4");
    expect(stats.value.reconnections).toBe(2);
  });
});

it("measures text as UTF-8", () => {
  for (const text of ["", "abc", "ä€", "😀", "a😀ß"]) expect(utf8Bytes(text)).toBe(Buffer.byteLength(text));
});
