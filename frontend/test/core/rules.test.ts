import { describe, expect, it } from "vitest";
import { fullJitter, resendDelay } from "../../src/core/backoff.js";
import { BoundedMap } from "../../src/core/bounded-map.js";
import { ACK_EVERY, EventSequence } from "../../src/core/sequence.js";
import { withPage } from "../../src/core/history.js";
import { subjectOf, toBase64Url } from "../../src/core/names.js";
import { Outbox, OUTBOX_MESSAGES, readMessages, type OutboxMessage } from "../../src/core/outbox.js";
import { RateWindow } from "../../src/core/rate.js";
import { RenewalSchedule } from "../../src/core/renewal.js";
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

describe("sending a rejected message again", () => {
  it("waits as long as the server asks, and backs off when it is rejected again", () => {
    expect([0, 1, 2, 3, 5, 6, 60].map((n) => resendDelay(n, undefined))).toEqual([
      1_000, 1_000, 2_000, 4_000, 16_000, 30_000, 30_000,
    ]);
    expect([0, 1, 3].map((n) => resendDelay(n, 3_000))).toEqual([3_000, 3_000, 4_000]);
    expect(resendDelay(6, 45_000)).toBe(45_000);
  });

  it("never happens at once, even if the server asks for no delay", () => {
    expect([0, 1, 2].map((n) => resendDelay(n, 0))).toEqual([250, 1_000, 2_000]);
  });
});

describe("the renewal of a token", () => {
  const MINUTE = 60_000;

  it("begins at once, and then waits 5, 10, 20 and 30 s while the token lasts", () => {
    const schedule = new RenewalSchedule();
    expect(schedule.delay(0, 10 * MINUTE)).toBe(0);
    const delays: number[] = [];
    for (let now = 0; delays.length < 6; now += delays.at(-1) ?? 0) {
      schedule.started(now, 0);
      delays.push(schedule.delay(now, now + 10 * MINUTE));
    }
    expect(delays).toEqual([5_000, 10_000, 20_000, 30_000, 30_000, 30_000]);
  });

  it("waits half of the time that is left, and never less than 5 s", () => {
    const schedule = new RenewalSchedule();
    for (let n = 0; n < 5; n += 1) schedule.started(0, 0);
    expect([MINUTE, 40_000, 10_000, 5_000, 1].map((endsAt) => schedule.delay(0, endsAt))).toEqual([
      30_000, 20_000, 5_000, 5_000, 5_000,
    ]);
  });

  it("begins without back-off after a token that lasts, but not within 5 s", () => {
    const schedule = new RenewalSchedule();
    for (let n = 0; n < 5; n += 1) schedule.started(0, 0);
    schedule.accepted(119_999);
    expect(schedule.delay(0, 10 * MINUTE)).toBe(30_000);
    schedule.accepted(120_000);
    expect(schedule.delay(4_999, 10 * MINUTE)).toBe(1);
    expect(schedule.delay(5_000, 10 * MINUTE)).toBe(0);
  });

  it("is not stopped by a clock that was set back, or by a token whose end has passed", () => {
    const schedule = new RenewalSchedule();
    schedule.started(10 * MINUTE, 0);
    expect(schedule.delay(0, 20 * MINUTE)).toBe(5_000);
    schedule.started(10 * MINUTE, 0);
    expect(schedule.delay(10 * MINUTE, 0)).toBe(10_000);
  });
});

describe("a bounded map", () => {
  it("keeps the entries that were set last", () => {
    const map = new BoundedMap<string, number>(2);
    for (const [key, value] of [["a", 1], ["b", 2], ["a", 3], ["c", 4]] as const) map.set(key, value);
    expect(["a", "b", "c"].map((key) => map.get(key))).toEqual([3, undefined, 4]);
    expect(map.values()).toEqual([3, 4]);
    map.clear();
    expect(map.has("a")).toBe(false);
  });
});

describe("retry tables", () => {
  it("decide by the code", () => {
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

describe("the event sequence", () => {
  it("accepts each number once, in order, and merged events", () => {
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

describe("the rate limit", () => {
  it("allows so many messages in any minute", () => {
    const rate = new RateWindow();
    expect(rate.take(0)).toBe(0);
    rate.limit = 2;
    expect([0, 10_000, 20_000].map((now) => rate.take(now))).toEqual([0, 0, 40_000]);
    expect(rate.take(60_000)).toBe(0);
    expect(rate.take(60_001)).toBe(9_999);
  });
});

describe("the outbox", () => {
  it("keeps the order while a message is held back", () => {
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

  it("reads stored messages, and ignores everything else", () => {
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
  it("read the subject of a token in any script", () => {
    for (const user of ["alice", "Zoë 😀", "a/b?c:d"]) expect(subjectOf(tokenFor(user))).toBe(user);
    for (const token of ["", "opaque", "a.b.c", "a.e30.c", "a.!!.c", "a.bnVsbA.c"]) expect(subjectOf(token)).toBeNull();
  });

  it("write base64url without padding", () => {
    for (const text of ["", "a", "ab", "abc", "abcd", "?>?>"]) {
      expect(toBase64Url(text)).toBe(Buffer.from(text).toString("base64url"));
    }
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
    ["newer, with an unknown gap", page(1, 2), page(8, 9), [8, 9]],
    ["empty", page(1), page(), [1]],
  ])("%s", (_, known, more, all) => expect(numbers(withPage(known, more, false))).toEqual(all));

  it.each([
    ["hides what follows it", page(1, 2, 3), page(2, 4), [1, 2, 4]],
    ["has everything", page(1, 2), page(), []],
  ])("whose newest page %s", (_, known, more, all) => expect(numbers(withPage(known, more, true))).toEqual(all));
});

describe("statistics", () => {
  it("average the time from a lost connection to the next one", () => {
    const stats = new Stats();
    stats.connected(0, "c1", "websocket");
    stats.lost(1_000);
    stats.lost(2_000);
    stats.connected(4_000, "c2", "websocket");
    stats.lost(5_000);
    stats.connected(6_000, "c3", "websocket");
    expect(stats.value).toMatchObject({ reconnections: 2, average_reconnection_ms: 2_000, connection_id: "c3" });
    stats.lost(7_000);
    stats.stopped(true);
    stats.connected(9_000, "c4", "websocket");
    expect(stats.value.reconnections).toBe(2);
    stats.lost(10_000);
    stats.stopped(false); // it gave up
    stats.connected(15_000, "c5", "websocket");
    expect(stats.value).toMatchObject({ reconnections: 3, average_reconnection_ms: 3_000 });
  });
});
