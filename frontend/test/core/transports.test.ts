import { describe, expect, it } from "vitest";
import type { Transport } from "../../src/index.js";
import { TransportPolicy } from "../../src/core/transports.js";

const MINUTE = 60_000;

class Attempts {
  readonly policy = new TransportPolicy();
  now = 0;
  readonly used: Transport[] = [];

  get next(): Transport {
    return this.policy.choose(this.now, true);
  }

  #begin(): ReturnType<TransportPolicy["begin"]> {
    this.used.push(this.next);
    return this.policy.begin(this.next, this.now);
  }

  fail(after = 100): void {
    const attempt = this.#begin();
    this.now += after;
    attempt.ended(this.now, false);
  }

  refuse(): void {
    this.#begin().ended(this.now, true);
  }

  live(ms: number, byServer = false): void {
    const attempt = this.#begin();
    attempt.established(this.now);
    this.now += ms;
    attempt.ended(this.now, byServer);
  }
}

const fallenBack = (): Attempts => {
  const attempts = new Attempts();
  attempts.fail();
  attempts.fail();
  return attempts;
};

describe("failed upgrades", () => {
  it("lead to server-sent events after two in a row, and only if there is that way", () => {
    const attempts = new Attempts();
    attempts.fail();
    expect(attempts.next).toBe("websocket");
    attempts.fail();
    expect(attempts.next).toBe("sse");
    expect(attempts.policy.choose(attempts.now, false)).toBe("websocket");
  });

  it("count only in a row", () => {
    const attempts = new Attempts();
    for (let n = 0; n < 5; n += 1) {
      attempts.fail();
      attempts.live(20_000);
    }
    for (let n = 0; n < 5; n += 1) {
      attempts.fail();
      attempts.policy.explained();
    }
    expect(new Set(attempts.used)).toEqual(new Set(["websocket"]));
  });

  it("count without an explanation", () => {
    const attempts = new Attempts();
    for (let n = 0; n < 5; n += 1) attempts.refuse();
    expect(attempts.next).toBe("websocket");
  });
});

describe("WebSockets that die at once", () => {
  it("count after three in a row", () => {
    const attempts = new Attempts();
    for (let n = 0; n < 2; n += 1) attempts.live(14_999);
    expect(attempts.next).toBe("websocket");
    attempts.live(14_999);
    expect(attempts.next).toBe("sse");
  });

  it("do not count if they last 15 s, or if the server closes them", () => {
    const attempts = new Attempts();
    for (let n = 0; n < 9; n += 1) attempts.live(n % 3 === 2 ? 15_000 : 1_000);
    for (let n = 0; n < 9; n += 1) attempts.live(1_000, n % 3 === 2);
    expect(new Set(attempts.used)).toEqual(new Set(["websocket"]));
  });
});

describe("a fallback", () => {
  it("of server-sent events without a first event in 5 s leads to long polls at once", () => {
    const late = fallenBack();
    late.fail(5_000);
    expect(late.next).toBe("long-poll");
    const early = fallenBack();
    early.fail(4_999);
    expect(early.next).toBe("sse");
    early.fail(4_999);
    expect(early.next).toBe("long-poll");
  });

  it("that fails as well leads back to the first way", () => {
    const attempts = fallenBack();
    for (let n = 0; n < 6; n += 1) attempts.fail();
    expect(attempts.used).toEqual([
      ...["websocket", "websocket", "sse", "sse", "long-poll", "long-poll", "websocket", "websocket"],
    ]);
    expect(attempts.next).toBe("sse");
  });

  it("that dies at once three times leads to the next one", () => {
    const attempts = fallenBack();
    for (let n = 0; n < 3; n += 1) attempts.live(1_000);
    expect(attempts.next).toBe("long-poll");
  });

  it("is kept while it works, and the WebSocket is tried again after 5 minutes, once", () => {
    const attempts = fallenBack();
    const { now } = attempts;
    attempts.live(4 * MINUTE);
    expect(attempts.next).toBe("sse");
    attempts.now = now + 5 * MINUTE;
    expect(attempts.next).toBe("websocket");
    attempts.fail();
    expect(attempts.next).toBe("sse");
    attempts.live(6 * MINUTE);
    attempts.live(MINUTE);
    expect(attempts.used.slice(-1)).toEqual(["websocket"]);
    attempts.fail();
    expect(attempts.next).toBe("websocket");
  });

  it("comes back at once if the WebSocket that replaced it dies at once", () => {
    const attempts = fallenBack();
    attempts.live(6 * MINUTE);
    attempts.live(1_000);
    expect(attempts.used.at(-1)).toBe("websocket");
    expect(attempts.next).toBe("sse");
    attempts.live(6 * MINUTE);
    attempts.live(20_000);
    attempts.live(1_000);
    expect(attempts.next).toBe("websocket");
  });

  it("that the server refuses shows that the WebSockets may have been refused as well", () => {
    const attempts = fallenBack();
    attempts.refuse();
    expect(attempts.next).toBe("websocket");
  });

  it("that has worked stays if the server refuses it", () => {
    const attempts = fallenBack();
    attempts.live(1_000);
    attempts.refuse();
    expect(attempts.next).toBe("sse");
  });
});
