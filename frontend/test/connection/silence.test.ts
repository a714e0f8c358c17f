import { describe, expect, it } from "vitest";
import { Browser, type Tab } from "../support/browser.js";
import { settle } from "../support/clock.js";
import { connected, hello } from "../support/connected.js";

/** The network takes every frame and delivers none: no event of the browser tells. */
function cut({ server }: Browser): void {
  const { socket } = server;
  socket.onData = () => undefined;
  socket.deliverText = () => undefined;
  socket.close = () => undefined;
}

describe("a line that delivers nothing", () => {
  it("is replaced within ten seconds after a message, which is sent once", async () => {
    const { browser, client } = await connected();
    cut(browser);
    const correlation_id = client.sendOptimisticMessage("hello");
    const sent = client.sendMessage({ ...hello, correlation_id });
    browser.server.isUp = false;
    await browser.clock.advance(7_900);
    expect(client.getSnapshot().status).toBe("CONNECTED");
    await browser.clock.advance(200);
    expect(client.getSnapshot()).toMatchObject({
      status: "RECONNECTING",
      lastError: { code: "CONNECTION_LOST" },
      messages: [{ status: "unconfirmed" }],
    });
    browser.server.isUp = true;
    await browser.clock.advance(3_000);
    expect(await sent).toBe(true);
    expect(client.getSnapshot()).toMatchObject({ session: { verdict: "exact" }, lastError: null });
    expect(browser.server.runs.size).toBe(1);
  });

  it.each<[string, (tab: Tab) => void]>([
    ["the page is visible again", (tab) => tab.page("visible")],
    ["the network is back", (tab) => tab.page("online")],
    ["the browser restores the page", (tab) => tab.page("show")],
  ])("is probed at once when %s", async (_, event) => {
    const { browser, client, tab } = await connected();
    cut(browser);
    event(tab);
    event(tab);
    await browser.clock.advance(5_100);
    expect(client.getSnapshot().status).not.toBe("CONNECTED");
    await browser.clock.advance(1_000);
    expect(client.getSnapshot()).toMatchObject({ status: "CONNECTED", session: { verdict: "exact" } });
  });

  it("is probed for a request and by a tab that follows, too", async () => {
    const browser = new Browser();
    await browser.tab().open();
    const follower = await browser.tab().open();
    expect(follower.getSnapshot().role).toBe("follower");
    cut(browser);
    browser.server.isUp = false;
    const page = follower.loadThread("main");
    void page.catch(() => undefined);
    await browser.clock.advance(8_100);
    expect(follower.getSnapshot().status).toBe("RECONNECTING");
    browser.server.isUp = true;
    await browser.clock.advance(3_000);
    await expect(page).rejects.toMatchObject({ body: { code: "THREAD_NOT_FOUND" } });
  });

  it("is probed once a heartbeat is missing, and replaced after that", async () => {
    const { browser, client } = await connected();
    const begin = browser.clock.now;
    cut(browser);
    await browser.clock.advance(35_900);
    expect(client.getSnapshot().isConnected).toBe(true);
    while (client.getSnapshot().isConnected) await browser.clock.advance(100);
    expect(browser.clock.now - begin).toBeLessThan(42_000);
    await browser.clock.advance(1_000);
    expect(client.getSnapshot()).toMatchObject({ isConnected: true, session: { verdict: "exact" } });
  });
});

describe("a line that delivers something", () => {
  it("is kept while the server answers probes, which the application does not see", async () => {
    const { browser, client } = await connected();
    const seen: string[] = [];
    client.subscribe("*", ({ type }) => seen.push(type));
    await browser.clock.advance(300_000); // a server that sends no heartbeats
    expect(browser.server.sockets).toHaveLength(1);
    expect(browser.server.of("ping").length).toBeLessThanOrEqual(300 / 36);
    expect(seen).toEqual([]);
    expect(client.getSnapshot().connectionStats).toMatchObject({ messages_sent: 0, messages_received: 0 });
  });

  it("is not probed while heartbeats arrive", async () => {
    const { browser } = await connected();
    for (let n = 0; n < 10; n += 1) {
      await browser.clock.advance(30_000);
      browser.server.control(browser.server.socket, "heartbeat", { server_time: 1 });
    }
    await settle();
    expect(browser.server.of("ping")).toEqual([]);
    expect(browser.server.of("pong")).toHaveLength(10);
  });

  it("is not probed while answers arrive, however late a confirmation is", async () => {
    const { browser, client } = await connected();
    browser.server.isMute = true;
    void client.sendMessage(hello);
    for (let n = 0; n < 10; n += 1) {
      await browser.clock.advance(2_500);
      browser.server.control(browser.server.socket, "heartbeat", { server_time: 1 });
    }
    expect(browser.server.of("ping")).toEqual([]);
    expect(browser.server.sockets).toHaveLength(1);
  });

  it("is kept while a large message is on its way over a slow line", async () => {
    const browser = new Browser();
    browser.server.limits = { ...browser.server.limits, max_message_size: 2_000_000 };
    const client = await browser.tab().open();
    const { socket } = browser.server;
    const { onData } = socket;
    const late: (() => void)[] = [];
    socket.onData = (data) => late.push(() => onData(data));
    const sent = client.sendMessage({ type: "user_message", payload: { content: "x".repeat(1_000_000) } });
    await browser.clock.advance(60_000); // at 16 KiB/s
    expect(browser.server.sockets).toHaveLength(1);
    for (const arrive of late) arrive();
    await browser.clock.advance(10);
    expect(await sent).toBe(true);
  });
});
