import { describe, expect, it } from "vitest";
import type { NetraClient } from "../../src/index.js";
import { Browser } from "../support/browser.js";
import { connected } from "../support/connected.js";

describe("reconnecting", () => {
  it("waits as long as Retry-After says after 429 and 503", async () => {
    for (const status of [429, 503]) {
      const browser = new Browser();
      browser.chance = 0;
      browser.server.answers = [{ status, retryAfter: "40" }];
      const client = await browser.tab().open();
      expect(client.getSnapshot()).toMatchObject({ status: "RECONNECTING", retry: { delay_ms: 40_000, attempt: 1 } });
      await browser.clock.advance(39_900);
      expect(browser.server.requests).toHaveLength(1);
      await browser.clock.advance(200);
      expect(client.getSnapshot().status).toBe("CONNECTED");
    }
  });

  it("backs off exponentially with jitter up to 30 s, without a limit of attempts", async () => {
    const browser = new Browser();
    browser.chance = 0.999;
    browser.server.isUp = false;
    const client = await browser.tab().open();
    const waits: number[] = [];
    for (let attempt = 0; attempt < 8; attempt += 1) {
      const wait = client.getSnapshot().retry?.delay_ms ?? 0;
      waits.push(Math.round(wait / 1000));
      await browser.clock.advance(wait);
    }
    expect(waits).toEqual([1, 2, 4, 8, 16, 30, 30, 30]);
    browser.server.isUp = true;
    await browser.clock.advance(30_000);
    expect(client.getSnapshot()).toMatchObject({ status: "CONNECTED", lastError: null, retry: null });
  });

  it("stops after maxReconnectAttempts, until the application asks", async () => {
    const browser = new Browser();
    browser.server.isUp = false;
    const client = await browser.tab().open({ maxReconnectAttempts: 2 });
    await browser.clock.advance(600_000);
    expect(browser.server.requests).toHaveLength(3);
    expect(client.getSnapshot()).toMatchObject({ status: "ERROR", lastError: { code: "RETRIES_EXHAUSTED" } });
    browser.server.isUp = true;
    client.forceReconnect();
    await browser.clock.advance(10);
    expect(client.getSnapshot().isConnected).toBe(true);
  });

  it("retries at once when the network or the page comes back, but not before Retry-After", async () => {
    const browser = new Browser();
    const tab = browser.tab();
    browser.server.isUp = false;
    browser.chance = 0.999;
    const client = await tab.open();
    await browser.clock.advance(60_000);
    browser.server.isUp = true;
    tab.page("online");
    await browser.clock.advance(10);
    expect(client.getSnapshot().isConnected).toBe(true);

    browser.server.answers = [{ status: 503, retryAfter: "100" }];
    browser.server.socket.drop(1011);
    await browser.clock.advance(2_000);
    tab.page("visible");
    await browser.clock.advance(50_000);
    expect(client.getSnapshot().isConnected).toBe(false);
  });

  it.each([1001, 1006, 1011, 1012, 4401, 4408])("reconnects after close code %d", async (code) => {
    const { browser, client } = await connected();
    browser.server.socket.drop(code);
    expect(client.getSnapshot()).toMatchObject({ status: "RECONNECTING", isReconnecting: true });
    await browser.clock.advance(1_000);
    expect(client.getSnapshot()).toMatchObject({
      status: "CONNECTED",
      connectionStats: { reconnections: 1 },
      lastError: null,
    });
    expect(client.getSnapshot().connectionStats.average_reconnection_ms).toBeGreaterThan(0);
  });

  it.each([1009, 4400, 4403, 4409, 4429])("reconnects after close code %d only when the application asks", async (code) => {
    const { browser, client } = await connected();
    browser.server.socket.drop(code);
    await browser.clock.advance(600_000);
    expect(client.getSnapshot().status).toBe("ERROR");
    expect(client.getSnapshot().lastError?.help).toBeTruthy();
    expect(browser.server.sockets).toHaveLength(1);
    client.forceReconnect();
    await browser.clock.advance(10);
    expect(client.getSnapshot().isConnected).toBe(true);
  });

  it("backs off if a server accepts connections and closes them at once", async () => {
    const { browser } = await connected();
    browser.chance = 0.999;
    for (let n = 0; n < 400; n += 1) {
      for (const socket of browser.server.open) socket.drop(1011);
      await browser.clock.advance(250);
    }
    expect(browser.server.sockets.length).toBeLessThan(12);
  });

  it("begins at most four attempts a second, even if each connection delivers something", async () => {
    const { browser } = await connected();
    browser.chance = 0;
    for (let n = 0; n < 1_000; n += 1) {
      for (const socket of browser.server.open) {
        browser.server.control(socket, "heartbeat", { server_time: 1 });
        socket.drop(1012);
      }
      await browser.clock.advance(10);
    }
    expect(browser.server.sockets.length).toBeGreaterThan(10);
    expect(browser.server.sockets.length).toBeLessThanOrEqual(1 + 4 * 10);
  });
});

describe("retryNow", () => {
  /** A client whose next attempt is half a minute away, and the number of attempts so far. */
  async function waiting(): Promise<{ browser: Browser; client: NetraClient; attempts: () => number }> {
    const browser = new Browser();
    browser.chance = 0.999;
    browser.server.isUp = false;
    const client = await browser.tab().open();
    await browser.clock.advance(120_000);
    return { browser, client, attempts: () => browser.server.requests.length };
  }

  it("ends the wait, however long it is", async () => {
    const { browser, client } = await waiting();
    expect(client.getSnapshot().retry?.delay_ms).toBeGreaterThan(20_000);
    browser.server.isUp = true;
    client.retryNow();
    await browser.clock.advance(10);
    expect(client.getSnapshot()).toMatchObject({ isConnected: true, retry: null, lastError: null });
  });

  it("begins at most one attempt a second, however often it is called", async () => {
    const { browser, client, attempts } = await waiting();
    const before = attempts();
    for (let n = 0; n < 1_000; n += 1) {
      client.retryNow();
      await browser.clock.advance(10);
    }
    expect(attempts() - before).toBeGreaterThan(5);
    expect(attempts() - before).toBeLessThanOrEqual(1 + 10);
    expect(client.getSnapshot().status).toBe("RECONNECTING");
  });

  it("does not try before the time of Retry-After, which the state tells", async () => {
    const browser = new Browser();
    browser.server.answers = [{ status: 503, retryAfter: "40" }];
    const client = await browser.tab().open();
    const { at, earliest } = client.getSnapshot().retry ?? { at: 0, earliest: 1 };
    expect(earliest).toBe(at);
    client.retryNow();
    await browser.clock.advance(39_000);
    expect(browser.server.requests).toHaveLength(1);
    await browser.clock.advance(2_000);
    expect(client.getSnapshot().isConnected).toBe(true);
  });

  it("does nothing while connected, connecting, disconnected or closed", async () => {
    const { browser, client } = await connected();
    client.retryNow();
    await browser.clock.advance(10);
    expect(browser.server.sockets).toHaveLength(1);
    client.disconnect();
    await browser.clock.advance(10);
    client.retryNow();
    await browser.clock.advance(10_000);
    expect(client.getSnapshot().status).toBe("DISCONNECTED");
    client.connect();
    client.retryNow();
    await browser.clock.advance(10);
    expect(browser.server.sockets).toHaveLength(2);
    client.close();
    client.retryNow();
    await browser.clock.advance(10_000);
    expect(browser.server.sockets).toHaveLength(2);
  });

  it("is passed on by a tab that follows", async () => {
    const browser = new Browser();
    browser.chance = 0.999;
    await browser.tab().open();
    const follower = await browser.tab().open();
    browser.server.isUp = false;
    browser.server.socket.drop(1006);
    await browser.clock.advance(60_000);
    expect(follower.getSnapshot()).toMatchObject({ role: "follower", status: "RECONNECTING" });
    expect(follower.getSnapshot().retry?.delay_ms).toBeGreaterThan(20_000);
    browser.server.isUp = true;
    follower.retryNow();
    await browser.clock.advance(20);
    expect(follower.getSnapshot().isConnected).toBe(true);
  });
});
