import { describe, expect, it } from "vitest";
import { Browser } from "../support/browser.js";
import { connected, hello } from "../support/connected.js";

describe("connectionStats", () => {
  it("count messages, and neither acknowledgements nor pings, heartbeats or answers to requests", async () => {
    const { browser, client } = await connected();
    const { server, clock } = browser;
    expect(client.getSnapshot().connectionStats).toMatchObject({ messages_sent: 0, messages_received: 0, errors_encountered: 0 });
    await client.sendMessage(hello);
    server.say(server.run.id, "a");
    server.say(server.run.id, "b");
    server.end(server.run.id);
    server.control(server.socket, "heartbeat", { server_time: 1 });
    server.control(server.socket, "auth_expiring", { expires_at: clock.now / 1000 + 600 });
    await client.sendMessage({ type: "ping" });
    await client.loadThread("main").catch(() => undefined);
    await clock.advance(2_000);
    // Sent besides: ack, pong, auth, ping, get_thread_history.
    expect(server.received.length).toBeGreaterThanOrEqual(6);
    const { messages_sent, messages_received, last_activity } = client.getSnapshot().connectionStats;
    // agent_started, two partial_result, agent_completed.
    expect([messages_sent, messages_received]).toEqual([1, 4]);
    expect(last_activity).toBeGreaterThan(clock.now - 2_000);
  });

  it("count a message once that is sent again, and an event once that is replayed", async () => {
    const { browser, client } = await connected();
    browser.server.isMute = true;
    void client.sendMessage(hello);
    await browser.clock.advance(10);
    browser.server.isMute = false;
    browser.server.socket.drop(1006);
    await browser.clock.advance(1_000);
    browser.server.say(browser.server.run.id, "a");
    browser.server.socket.drop(1006);
    await browser.clock.advance(1_000);
    expect(browser.server.of("user_message")).toHaveLength(2);
    expect(client.getSnapshot().connectionStats).toMatchObject({
      messages_sent: 1,
      messages_received: 2,
      reconnections: 2,
      errors_encountered: 2,
    });
  });

  it("count what an application sends, of each type", async () => {
    const { browser, client } = await connected();
    browser.server.rooms.room("news");
    await client.sendMessage({ type: "agent_request", payload: { agent: "echo", input: {} } });
    const question = browser.server.ask(browser.server.run.id);
    await client.answer(question, { approve: true });
    const leave = client.joinRoom("news");
    await browser.clock.advance(10);
    await client.publish("news", "hello");
    leave();
    expect(client.getSnapshot().connectionStats.messages_sent).toBe(3);
  });

  it("count error messages, failed attempts, lost connections and unreadable frames", async () => {
    const browser = new Browser();
    browser.server.isUp = false;
    const client = await browser.tab().open();
    const errors = (): number => client.getSnapshot().connectionStats.errors_encountered;
    expect(errors()).toBe(1);
    browser.server.isUp = true;
    await browser.clock.advance(1_000);
    browser.server.error(browser.server.socket, "INTERNAL_ERROR");
    expect(errors()).toBe(2);
    await client.loadThread("unknown").catch(() => undefined);
    expect(errors()).toBe(3);
    browser.server.socket.deliverText("nonsense");
    expect(errors()).toBe(4);
    browser.server.refusals = 1;
    browser.server.socket.drop(1006);
    await browser.clock.advance(6_000);
    expect(errors()).toBe(6); // the loss, and the attempt that failed
    client.disconnect();
    await browser.clock.advance(2_000);
    client.connect();
    await browser.clock.advance(10);
    expect(errors()).toBe(6);
    expect(client.getSnapshot().connectionStats.reconnections).toBe(1);
  });
});
