import { describe, expect, it } from "vitest";
import type { NetraClient, OutgoingMessage } from "../../src/index.js";
import { Browser } from "../support/browser.js";
import { connected, hello } from "../support/connected.js";

const withContent = (content: string): OutgoingMessage => ({ type: "user_message", payload: { content } });

/** The longest content that a client says it would send. */
function longest(client: NetraClient, unit: string): string {
  let [fits, tooLong] = [1, 20_000];
  while (tooLong - fits > 1) {
    const middle = Math.floor((fits + tooLong) / 2);
    if (client.checkMessage(withContent(unit.repeat(middle))) === null) fits = middle;
    else tooLong = middle;
  }
  return unit.repeat(fits);
}

const bytesOf = (frame: unknown): number => Buffer.byteLength(JSON.stringify(frame));

describe("checkMessage", () => {
  it.each(["a", "ä", "語", "😀", '"', "\nx", "\ud800"])("measures a message of %j as the server does", async (unit) => {
    const { browser, client } = await connected();
    await browser.clock.advance(113); // the time has three decimals then, as nearly always
    const content = longest(client, unit);
    expect(client.checkMessage(withContent(content + unit))).toMatchObject({ code: "MESSAGE_TOO_LARGE", help: "Send a shorter message." });
    expect(client.getSnapshot()).toMatchObject({ messages: [], lastError: null, queued: 0 });
    expect(await client.sendMessage(withContent(content))).toBe(true);
    const [frame] = browser.server.of("user_message");
    // Nothing more fits: the next character would not.
    expect(bytesOf(frame)).toBeLessThanOrEqual(10_240);
    expect(bytesOf(frame)).toBeGreaterThan(10_240 - Buffer.byteLength(JSON.stringify(unit)) + 2);
    const sent = client.sendMessage(withContent(content + unit));
    expect(await sent).toBe(false);
    expect(browser.server.of("user_message")).toHaveLength(1);
    expect(client.getSnapshot().lastError?.code).toBe("MESSAGE_TOO_LARGE");
  });

  it("allows only what fits at any later time", async () => {
    const { browser, client } = await connected(); // at a time without decimals, whose frame is shorter
    const content = longest(client, "a");
    await browser.clock.advance(113);
    expect(await client.sendMessage(withContent(content))).toBe(true);
  });

  it("uses the server's default before the first connection, and the last known limit offline", async () => {
    const browser = new Browser();
    browser.server.isUp = false;
    const tab = browser.tab();
    const client = await tab.open();
    expect(longest(client, "a").length).toBeGreaterThan(10_000);
    expect(longest(client, "a").length).toBeLessThan(10_240);
    browser.server.isUp = true;
    browser.server.limits = { ...browser.server.limits, max_message_size: 1_000 };
    await browser.clock.advance(2_000);
    expect(longest(client, "a").length).toBeLessThan(1_000);
    // The next server allows more, as its first frame says.
    browser.server.limits = { ...browser.server.limits, max_message_size: 2_000 };
    browser.server.socket.drop(1012);
    await browser.clock.advance(2_000);
    expect(longest(client, "a").length).toBeGreaterThan(1_800);
    browser.server.isUp = false;
    browser.server.socket.drop(1006);
    expect(longest(client, "a").length).toBeGreaterThan(1_800);
    const key = client.sendOptimisticMessage("a".repeat(2_000));
    expect(await client.sendMessage({ type: "user_message", payload: { content: "a".repeat(2_000), correlation_id: key } })).toBe(false);
    expect(client.getSnapshot().messages).toMatchObject([{ status: "failed", error: { code: "MESSAGE_TOO_LARGE" } }]);
    expect(client.getSnapshot().queued).toBe(0);
  });

  it("queues a message beyond the default while the limit is unknown", async () => {
    const browser = new Browser();
    browser.server.isUp = false;
    browser.server.limits = { ...browser.server.limits, max_message_size: 100_000 };
    const client = await browser.tab().open();
    const sent = client.sendMessage(withContent("a".repeat(50_000)));
    browser.server.isUp = true;
    await browser.clock.advance(2_000);
    expect(await sent).toBe(true);
  });

  it("knows the limit of the tab that leads", async () => {
    const browser = new Browser();
    browser.server.limits = { ...browser.server.limits, max_message_size: 1_000 };
    await browser.tab().open();
    const follower = await browser.tab().open();
    expect(follower.getSnapshot().role).toBe("follower");
    expect(longest(follower, "a").length).toBeLessThan(1_000);
    expect(await follower.sendMessage(withContent("a".repeat(1_000)))).toBe(false);
    expect(follower.getSnapshot().lastError?.code).toBe("MESSAGE_TOO_LARGE");
    expect(await follower.sendMessage(withContent(longest(follower, "a")))).toBe(true);
  });

  it.each<[string, OutgoingMessage]>([
    ["VALIDATION_ERROR", withContent(" ")],
    ["VALIDATION_ERROR", { type: "nonsense" }],
    ["VALIDATION_ERROR", { type: "auth", payload: { token: "x" } }],
    ["VALIDATION_ERROR", { ...hello, payload: { content: "x", correlation_id: 5 } }],
    ["MESSAGE_TOO_LARGE", { type: "room_message", payload: { room: "news", content: "x".repeat(11_000) } }],
    ["MESSAGE_TOO_LARGE", { type: "answer", payload: { question_id: "q", answer: "x".repeat(11_000) } }],
  ])("returns %s for %j", async (code, message) => {
    const { client } = await connected();
    expect(client.checkMessage(message)?.code).toBe(code);
    expect(client.getSnapshot().lastError).toBeNull();
  });

  it("returns null for what can be sent, and the reason once the outbox is full or the client closed", async () => {
    const { browser, client } = await connected();
    expect(client.checkMessage(hello)).toBeNull();
    expect(client.checkMessage({ type: "ping" })).toBeNull();
    browser.server.isUp = false;
    browser.server.socket.drop(1006);
    for (let n = 0; n < 500; n += 1) void client.sendMessage({ ...hello, correlation_id: `k${n}` });
    expect(client.checkMessage(hello)?.code).toBe("OUTBOX_FULL");
    expect(client.checkMessage({ ...hello, correlation_id: "k1" })).toBeNull(); // it waits already
    client.close();
    expect(client.checkMessage(hello)?.code).toBe("CLOSED");
  });
});
