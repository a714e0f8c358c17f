import { describe, expect, it } from "vitest";
import { Browser } from "../support/browser.js";
import { settle } from "../support/clock.js";
import { connected, hello } from "../support/connected.js";

describe("sending", () => {
  it("fails a message that the server rejects, and only that one", async () => {
    const { browser, client } = await connected();
    browser.server.isMute = true;
    const first = client.sendOptimisticMessage("one");
    const second = client.sendOptimisticMessage("two");
    const sent = client.sendMessage({ type: "user_message", payload: { content: "one", correlation_id: first } });
    void client.sendMessage({ type: "user_message", payload: { content: "two", correlation_id: second } });
    browser.server.error(browser.server.socket, "AGENT_BUSY", first);
    expect(await sent).toBe(false);
    expect(client.getSnapshot().messages).toMatchObject([
      { status: "failed", error: { code: "AGENT_BUSY" } },
      { status: "pending" },
    ]);
    expect(client.getSnapshot().lastError?.code).toBe("AGENT_BUSY");
    client.clearError();
    expect(client.getSnapshot().lastError).toBeNull();
    browser.server.isMute = false;
    expect(client.resend(first)).not.toBe(first);
    await settle();
    expect(browser.server.contents).toEqual(["one", "two", "one"]);
  });

  it.each(["RATE_LIMIT_EXCEEDED", "QUEUE_FULL", "SERVICE_UNAVAILABLE"])(
    "sends a message again after %s, under the same key, and holds back the messages behind it",
    async (code) => {
      const { browser, client } = await connected();
      browser.server.isMute = true;
      const first = client.sendMessage({ ...hello, correlation_id: "k1" });
      await settle();
      browser.server.error(browser.server.socket, code, "k1", { retry_after_ms: 12_000 });
      browser.server.isMute = false;
      const second = client.sendMessage({ ...hello, correlation_id: "k2" });
      await browser.clock.advance(11_900);
      expect(browser.server.of("user_message").map((m) => m.correlation_id)).toEqual(["k1"]);
      await browser.clock.advance(200);
      expect(browser.server.of("user_message").map((m) => m.correlation_id)).toEqual(["k1", "k1", "k2"]);
      expect([await first, await second]).toEqual([true, true]);
    },
  );

  it("waits for the next server if this one has drained", async () => {
    const { browser, client } = await connected();
    browser.chance = 0;
    browser.server.control(browser.server.socket, "server_draining", { reason: "restart", reconnect_after_ms: 3_000 });
    await browser.clock.advance(1_000);
    browser.server.socket.drop(1012);
    const sent = client.sendMessage(hello);
    expect(client.getSnapshot().retry?.delay_ms).toBe(2_000);
    await browser.clock.advance(1_900);
    expect(browser.server.contents).toEqual([]);
    await browser.clock.advance(200);
    expect(await sent).toBe(true);
  });

  it("keeps to the server's rate limit", async () => {
    const browser = new Browser();
    browser.server.limits = { ...browser.server.limits, max_message_rate: 3 };
    const client = await browser.tab().open();
    for (let n = 0; n < 5; n += 1) void client.sendMessage({ type: "user_message", payload: { content: `${n}` } });
    await browser.clock.advance(59_000);
    expect(browser.server.contents).toEqual(["0", "1", "2"]);
    expect(client.getSnapshot().queued).toBe(2);
    await browser.clock.advance(2_000);
    expect(browser.server.contents).toEqual(["0", "1", "2", "3", "4"]);
    expect(client.getSnapshot().queued).toBe(0);
  });

  it("fails messages that are too large or invalid without sending them", async () => {
    const { browser, client } = await connected();
    expect(await client.sendMessage({ type: "user_message", payload: { content: "ä".repeat(6_000) } })).toBe(false);
    expect(client.getSnapshot().lastError?.code).toBe("MESSAGE_TOO_LARGE");
    expect(await client.sendMessage({ type: "user_message", payload: { content: " " } })).toBe(false);
    expect(await client.sendMessage({ type: "user_message", payload: { text: "hello" } })).toBe(false);
    expect(await client.sendMessage({ type: "nonsense" })).toBe(false);
    expect(await client.sendMessage({ type: "ack", payload: { seq: 1 } })).toBe(false);
    expect(client.getSnapshot().lastError?.code).toBe("VALIDATION_ERROR");
    expect(browser.server.received.filter((m) => m.type !== "pong")).toEqual([]);
  });

  it("resolves types without a confirmation once they are written", async () => {
    const browser = new Browser();
    browser.server.isUp = false;
    const client = await browser.tab().open();
    const ping = client.sendMessage({ type: "ping", payload: { n: 1 } });
    const pongs: unknown[] = [];
    client.subscribe("pong", ({ payload }) => pongs.push(payload));
    browser.server.isUp = true;
    await browser.clock.advance(1_000);
    expect(await ping).toBe(true);
    expect(pongs).toEqual([{ n: 1 }]);
  });

  it("queues 500 messages without a connection, and refuses one more", async () => {
    const { browser, client } = await connected();
    client.disconnect();
    await browser.clock.advance(10);
    for (let n = 0; n < 500; n += 1) void client.sendMessage({ type: "user_message", payload: { content: `${n}` } });
    expect(client.getSnapshot()).toMatchObject({ queued: 500, lastError: null });
    const key = client.sendOptimisticMessage("one more");
    expect(await client.sendMessage({ type: "user_message", payload: { content: "one more", correlation_id: key } })).toBe(false);
    expect(client.getSnapshot().queued).toBe(500);
    expect(client.getSnapshot().messages.at(-1)).toMatchObject({ status: "failed", error: { code: "OUTBOX_FULL" } });
  });

  it("writes nothing to a closing socket, and loses no message", async () => {
    const { browser, client } = await connected();
    const first = client.sendMessage(hello);
    await browser.clock.advance(10);
    expect(await first).toBe(true);
    const { socket } = browser.server;
    const { id } = browser.server.run;
    socket.isClosing = true;
    browser.server.control(socket, "heartbeat", { server_time: 1 });
    for (let n = 0; n < 40; n += 1) browser.server.say(id, `${n} `);
    const sent = client.sendMessage({ type: "user_message", payload: { content: "late" } });
    const page = client.loadThread("old");
    void page.catch(() => undefined);
    await browser.clock.advance(10);
    expect(client.getSnapshot().messages.at(-1)?.content).toContain("39");
    socket.drop(1012);
    await browser.clock.advance(2_000);
    expect(await sent).toBe(true);
    await expect(page).rejects.toMatchObject({ body: { code: "THREAD_NOT_FOUND" } });
    expect(client.getSnapshot().session?.verdict).toBe("exact");
    expect(browser.server.contents).toEqual(["hello", "late"]);
  });

  it.each(["RATE_LIMIT_EXCEEDED", "QUEUE_FULL", "SERVICE_UNAVAILABLE"])(
    "backs off if the server answers %s again and again, and asks for no delay",
    async (code) => {
      const { browser, client } = await connected();
      browser.server.rejection = { code, retry_after_ms: 0 };
      const sent = client.sendMessage(hello);
      await browser.clock.advance(60_000);
      expect(browser.server.of("user_message").length).toBeGreaterThan(3);
      expect(browser.server.of("user_message").length).toBeLessThan(9);
      browser.server.rejection = null;
      await browser.clock.advance(30_000);
      expect(await sent).toBe(true);
    },
  );
});
