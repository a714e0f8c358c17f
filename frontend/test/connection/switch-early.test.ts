/** A message that a draining server does not accept starts the first attempt to switch at once. */

import { describe, expect, it } from "vitest";
import type { NetraClient } from "../../src/index.js";
import { Browser } from "../support/browser.js";
import { settle } from "../support/clock.js";
import { connected, hello } from "../support/connected.js";

const TOLD = 4_000; // ms
const CONNECT = 20; // ms: more than a ticket and an upgrade take

const say = (client: NetraClient, content: string): Promise<boolean> =>
  client.sendMessage({ type: "user_message", payload: { content } });

/** A client whose server drains, and a function that counts the attempts since then. */
async function draining(told = TOLD): Promise<Awaited<ReturnType<typeof connected>> & { attempts: () => number }> {
  const { browser, client, tab } = await connected();
  const { server } = browser;
  const before = server.requests.length;
  server.drain(server.socket, told);
  await settle();
  return { browser, client, tab, attempts: () => server.requests.length - before };
}

describe("while the first attempt waits for the server's time", () => {
  it("an idle client keeps to that time", async () => {
    const { browser, attempts } = await draining();
    await browser.clock.advance(TOLD - 10);
    expect(attempts()).toBe(0);
    await browser.clock.advance(10 + CONNECT);
    expect(attempts()).toBe(1);
    expect(browser.server.open).toEqual([browser.server.sockets[1]]);
  });

  it("a message starts it, and goes to the next server", async () => {
    const { browser, client, attempts } = await draining();
    const { server } = browser;
    const old = server.socket;
    await browser.clock.advance(1_000);
    const sent = [say(client, "one"), say(client, "two")];
    await browser.clock.advance(4);
    expect(server.of("user_message")).toEqual([]);
    expect(server.open).toEqual([old]);
    await browser.clock.advance(CONNECT);
    expect(await Promise.all(sent)).toEqual([true, true]);
    expect(server.open).toEqual([server.sockets[1]]);
    expect(server.contents).toEqual(["one", "two"]);
    await browser.clock.advance(60_000);
    expect(attempts()).toBe(1);
    expect(client.getSnapshot()).toMatchObject({ status: "CONNECTED", connectionStats: { reconnections: 1 } });
  });

  it("a message of another tab starts it", async () => {
    const browser = new Browser();
    await browser.tab().open();
    const follower = await browser.tab().open();
    browser.server.drain(browser.server.socket, TOLD);
    await browser.clock.advance(1_000);
    const sent = say(follower, "one");
    await browser.clock.advance(CONNECT);
    expect(await sent).toBe(true);
    expect(browser.server.sockets).toHaveLength(2);
  });

  it("a message that waits already when the frame comes starts it", async () => {
    const { browser, client } = await connected();
    const { server } = browser;
    server.limits = { ...server.limits, max_message_rate: 1 };
    client.forceReconnect();
    await browser.clock.advance(CONNECT);
    const sent = [say(client, "one"), say(client, "two")];
    await browser.clock.advance(1_000);
    expect(server.contents).toEqual(["one"]);
    const count = server.sockets.length;
    server.limits = { ...server.limits, max_message_rate: 60 };
    server.drain(server.socket, TOLD);
    await browser.clock.advance(CONNECT);
    expect(server.sockets).toHaveLength(count + 1);
    expect(await Promise.all(sent)).toEqual([true, true]);
    expect(server.contents).toEqual(["one", "two"]);
  });

  it.each([true, false])("a message whose answer is on its way starts it if it is refused; confirmed: %s", async (isConfirmed) => {
    const { browser, client } = await connected();
    const { server } = browser;
    server.isMute = true;
    const sent = client.sendMessage({ ...hello, correlation_id: "k1" });
    await settle();
    server.isMute = false;
    server.drain(server.socket, TOLD);
    await browser.clock.advance(1_000);
    expect(server.sockets).toHaveLength(1);
    if (isConfirmed) {
      const payload = { message_id: "msg-1", run_id: "run-1", thread_id: "main", status: "accepted" } as const;
      server.emit(server.session, "message_confirmed", "k1", payload);
    } else server.error(server.socket, "SERVER_DRAINING", "k1", { retry_after_ms: 1_000 });
    await browser.clock.advance(CONNECT);
    expect(await sent).toBe(true);
    expect(server.sockets).toHaveLength(isConfirmed ? 1 : 2);
    expect(server.of("user_message")).toHaveLength(isConfirmed ? 1 : 2);
  });

  it("a request does not start it: the draining server answers", async () => {
    const { browser, client, attempts } = await draining();
    browser.server.threads.set("other", []);
    const page = client.loadThread("other");
    await browser.clock.advance(1_000);
    expect(await page).toMatchObject({ thread_id: "other" });
    expect(attempts()).toBe(0);
  });

  it("a message does not start it on a connection that is closed", async () => {
    const { browser, client, attempts } = await draining();
    browser.server.socket.drop(1012);
    const sent = say(client, "one");
    await browser.clock.advance(TOLD - 10);
    expect(attempts()).toBe(0);
    await browser.clock.advance(1_000);
    expect(await sent).toBe(true);
  });

  it("a message starts nothing on a later connection that does not acknowledge", async () => {
    const { browser, client } = await draining();
    const { server } = browser;
    server.selects = () => "";
    client.forceReconnect();
    await browser.clock.advance(CONNECT);
    server.drain(server.socket, TOLD);
    void say(client, "one");
    await browser.clock.advance(5_000);
    expect(server.sockets).toHaveLength(2);
  });

  it("a message does not start another one once it has begun", async () => {
    const { browser, client, attempts } = await draining();
    browser.server.upgradeTime = 1_000;
    await browser.clock.advance(TOLD + 100);
    const sent = say(client, "one");
    await browser.clock.advance(1_000);
    expect(await sent).toBe(true);
    expect(attempts()).toBe(1);
  });

  it("a message starts nothing for a client that does not acknowledge", async () => {
    const browser = new Browser();
    browser.server.selects = () => "";
    const client = await browser.tab().open();
    browser.server.drain(browser.server.socket, TOLD);
    void say(client, "one");
    await browser.clock.advance(5_000);
    expect(browser.server.sockets).toHaveLength(1);
  });
});

describe("only one attempt is early", () => {
  it.each([1, 0])("after an answer to the ticket with Retry-After: %i", async (seconds) => {
    const { browser, client, attempts } = await draining();
    const { server } = browser;
    const old = server.socket;
    browser.chance = 0.999;
    const retryAfter = seconds > 0 ? `${seconds}` : null;
    server.answers = Array.from({ length: 100 }, () => ({ status: 503, retryAfter }));
    const times: number[] = [];
    const begun = browser.clock.now;
    const sent = say(client, "first");
    for (let n = 0; n < 140; n += 1) {
      await browser.clock.advance(100);
      while (times.length < attempts()) times.push(browser.clock.now - begun);
      if (n % 10 === 5) void say(client, `more ${n}`);
      if (n % 10 === 7) server.drain(old, 0); // again, which is not another drain
    }
    // At once, then not before the told time, and after 2 and 4 s; each is seen within 100 ms.
    expect(times).toEqual([100, 4_000, 6_000, 10_000]);
    expect(client.getSnapshot()).toMatchObject({ status: "CONNECTED", lastError: null });
    server.answers = [];
    await browser.clock.advance(10_000);
    expect(await sent).toBe(true);
    expect(server.contents[0]).toBe("first");
  });

  it("after a socket that does not open, also if the old one is closed meanwhile", async () => {
    const { browser, client } = await draining();
    const { server } = browser;
    browser.chance = 0;
    server.upgradeTime = 100;
    server.refusals = 1;
    const sent = say(client, "one");
    await browser.clock.advance(50);
    server.socket.drop(1012);
    await browser.clock.advance(TOLD - 60);
    expect(server.sockets).toHaveLength(2);
    await browser.clock.advance(200);
    expect(server.sockets).toHaveLength(3);
    expect(await sent).toBe(true);
  });

  it("if servers drain one after the other", async () => {
    const { browser, client } = await draining();
    const { server } = browser;
    browser.chance = 0.999;
    server.isMute = true;
    for (let n = 0; n < 200; n += 1) {
      void say(client, `${n}`);
      for (const socket of server.open) server.drain(socket, TOLD);
      await browser.clock.advance(100);
    }
    // 20 s: at once, then after 4, 4, and 4 s or the pauses, whichever is longer.
    expect(server.sockets.length).toBeGreaterThan(3);
    expect(server.sockets.length).toBeLessThanOrEqual(1 + 1 + 20_000 / TOLD);
  });
});
