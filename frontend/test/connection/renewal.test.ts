import { describe, expect, it } from "vitest";
import { Browser } from "../support/browser.js";
import { connected, hello } from "../support/connected.js";
import { tokenFor } from "../support/server.js";

describe("renewing a token", () => {
  it("renews the token in place", async () => {
    const { browser, client, tab } = await connected();
    browser.server.control(browser.server.socket, "auth_expiring", { expires_at: 1 });
    await browser.clock.advance(30_000);
    expect(tab.tokensGiven).toBe(2);
    expect(browser.server.of("auth").map((m) => m.payload.token)).toEqual([tokenFor("alice")]);
    expect(client.getSnapshot().connectionStats.reconnections).toBe(0);
  });

  it("asks for a token again if the new one is not accepted", async () => {
    const { browser, tab } = await connected();
    browser.server.isMute = true;
    browser.server.control(browser.server.socket, "auth_expiring", { expires_at: 1 });
    await browser.clock.advance(5_000);
    browser.server.control(browser.server.socket, "heartbeat", { server_time: 1 });
    await browser.clock.advance(5_500);
    expect(tab.tokensGiven).toBe(3);
    expect(browser.server.of("auth")).toHaveLength(2);
  });

  it("connects as the new user if the new token is for another user", async () => {
    const { browser, client, tab } = await connected();
    void client.sendMessage(hello);
    await browser.clock.advance(10);
    const page = client.loadThread("old");
    void page.catch(() => undefined);
    browser.server.isMute = true;
    const late = client.loadThread("late");
    const outcome = expect(late).rejects.toMatchObject({ body: { code: "USER_CHANGED" } });
    tab.token = tokenFor("bob");
    browser.server.control(browser.server.socket, "auth_expiring", { expires_at: 1 });
    await browser.clock.advance(10);
    await outcome;
    expect(browser.server.of("auth")).toEqual([]);
    expect(client.getSnapshot()).toMatchObject({ isConnected: true, messages: [], runs: [], session: { user_id: "bob", verdict: "new" } });
    expect(browser.server.open).toHaveLength(1);
  });

  it("reports when the token ends until it is renewed, by this machine's clock", async () => {
    const { browser, client, tab } = await connected();
    expect(client.getSnapshot().tokenEndsAt).toBeNull();
    const asked: ((token: string) => void)[] = [];
    tab.token = () => new Promise((resolve) => asked.push(resolve));
    const serverTime = browser.clock.now / 1000 + 3_600; // its clock is an hour ahead
    browser.server.socket.deliver({
      type: "auth_expiring",
      payload: { expires_at: serverTime + 60 },
      timestamp: serverTime,
    });
    expect(client.getSnapshot().tokenEndsAt).toBe(browser.clock.now + 60_000);
    asked[0]?.(tokenFor("alice"));
    await browser.clock.advance(10);
    expect(client.getSnapshot().tokenEndsAt).toBeNull();
  });
});

/** The seconds between the renewals that the server received. */
const gaps = ({ server }: Browser): number[] => {
  const times = server.of("auth").map(({ timestamp = 0 }) => timestamp);
  return times.slice(1).map((time, n) => Math.round((time - (times[n] ?? 0)) * 1000) / 1000);
};

describe("renewals are spaced", () => {
  it("if getToken returns the same token, which ends in 65 s", async () => {
    const browser = new Browser();
    browser.chance = 0;
    browser.server.checksTokens = true;
    const tab = browser.tab();
    const end = browser.clock.now + 65_000;
    tab.token = tokenFor("alice", end / 1000);
    const client = await tab.open();
    await browser.clock.advance(10_000);
    expect(client.getSnapshot()).toMatchObject({ isConnected: true, tokenEndsAt: end });
    await browser.clock.advance(54_000);
    expect(client.getSnapshot()).toMatchObject({ isConnected: true, tokenEndsAt: end });
    expect(browser.server.of("auth").length).toBeGreaterThan(3);
    expect(browser.server.of("auth").length).toBeLessThan(10);
    expect(Math.min(...gaps(browser))).toBeGreaterThanOrEqual(5);
    expect(gaps(browser).slice(0, 3)).toEqual([5, 10, 20]);
    await browser.clock.advance(2_000);
    expect(client.getSnapshot().isConnected).toBe(false);
  });

  it("if every token ends within 65 s, and the connection stays", async () => {
    const browser = new Browser();
    browser.server.checksTokens = true;
    const tab = browser.tab();
    tab.token = () => Promise.resolve(tokenFor("alice", browser.clock.now / 1000 + 65));
    const client = await tab.open();
    await browser.clock.advance(600_000);
    expect(client.getSnapshot()).toMatchObject({ isConnected: true, connectionStats: { reconnections: 0 } });
    expect(Math.min(...gaps(browser))).toBeGreaterThanOrEqual(5);
    expect(browser.server.of("auth").length).toBeLessThan(30);
  });

  it("if the server warns again and again", async () => {
    const { browser, tab } = await connected();
    for (let n = 0; n < 300; n += 1) {
      const expires_at = browser.clock.now / 1000 + 60;
      browser.server.control(browser.server.socket, "auth_expiring", { expires_at });
      await browser.clock.advance(100);
    }
    expect(Math.min(...gaps(browser))).toBeGreaterThanOrEqual(5);
    expect(browser.server.of("auth").length).toBeLessThanOrEqual(1 + 30 / 5);
    expect(tab.tokensGiven).toBe(1 + browser.server.of("auth").length);
  });

  it("if the server rejects each token", async () => {
    const { browser, client } = await connected();
    browser.server.isMute = true;
    browser.server.control(browser.server.socket, "auth_expiring", { expires_at: browser.clock.now / 1000 + 60 });
    for (let n = 0; n < 60; n += 1) {
      const { correlation_id } = browser.server.of("auth").at(-1) ?? {};
      browser.server.error(browser.server.socket, "INVALID_TOKEN", correlation_id);
      await browser.clock.advance(1_000);
    }
    expect(client.getSnapshot().lastError?.code).toBe("INVALID_TOKEN");
    expect(Math.min(...gaps(browser))).toBeGreaterThanOrEqual(5);
  });

  it("if getToken fails, and asks once while getToken has not settled", async () => {
    const { browser, client, tab } = await connected();
    const warn = (): void =>
      browser.server.control(browser.server.socket, "auth_expiring", { expires_at: browser.clock.now / 1000 + 60 });
    tab.token = () => Promise.reject(new Error("offline"));
    warn();
    await browser.clock.advance(14_000);
    expect(client.getSnapshot().lastError?.code).toBe("TOKEN_UNAVAILABLE");
    expect(tab.tokensGiven).toBe(1 + 2); // at once, and after 5 s
    tab.token = () => new Promise(() => undefined);
    await browser.clock.advance(60_000);
    for (let n = 0; n < 10; n += 1) warn();
    expect(tab.tokensGiven).toBe(1 + 3);
  });

  it("over several connections", async () => {
    const { browser } = await connected();
    const start = browser.clock.now;
    while (browser.clock.now < start + 30_000) {
      for (const socket of browser.server.open) {
        browser.server.control(socket, "heartbeat", { server_time: 1 });
        browser.server.control(socket, "auth_expiring", { expires_at: browser.clock.now / 1000 + 5 });
        await browser.clock.advance(10);
        socket.drop(1012);
      }
      await browser.clock.advance(100);
    }
    expect(browser.server.sockets.length).toBeGreaterThan(10);
    expect(Math.min(...gaps(browser))).toBeGreaterThanOrEqual(5);
  });
});
