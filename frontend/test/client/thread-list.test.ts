/** The list of the user's threads: read at each connection, kept up to date, shared by the tabs. */

import { describe, expect, it } from "vitest";
import type { NetraClient } from "../../src/index.js";
import { Browser } from "../support/browser.js";
import { connected } from "../support/connected.js";
import { tokenFor } from "../support/server.js";

const titles = (client: NetraClient): string[] => client.getSnapshot().threads.threads.map(({ title }) => title);

async function withThreads(count: number): Promise<{ browser: Browser; client: NetraClient }> {
  const { browser, client } = await connected();
  for (let n = 1; n <= count; n += 1) {
    await browser.clock.advance(10);
    browser.server.rooms.list(`t${n}`);
  }
  return { browser, client };
}

describe("the list of threads", () => {
  it("is read only while it is followed", async () => {
    const { browser, client } = await withThreads(2);
    expect(browser.server.of("list_threads")).toEqual([]);
    const end = client.followThreads();
    await browser.clock.advance(10);
    expect(client.getSnapshot().threads).toMatchObject({ isLoaded: true, hasMore: false, error: null });
    expect(titles(client)).toEqual(["t2", "t1"]);
    end();
    end();
    client.followThreads()();
    browser.server.socket.drop(1006);
    await browser.clock.advance(5_000);
    expect(browser.server.of("list_threads")).toHaveLength(2);
  });

  it("is followed before there is a connection, and read again after each", async () => {
    const browser = new Browser();
    const tab = browser.tab();
    const client = await tab.open();
    client.disconnect();
    client.followThreads();
    client.connect();
    await browser.clock.advance(10);
    expect(client.getSnapshot().threads.isLoaded).toBe(true);
    browser.server.socket.drop(1006);
    browser.server.rooms.list("t1");
    await browser.clock.advance(5_000);
    expect(titles(client)).toEqual(["t1"]);
  });

  it("follows the changes of all sessions", async () => {
    const { browser, client } = await withThreads(3);
    const { rooms } = browser.server;
    client.followThreads();
    await browser.clock.advance(10);
    rooms.list("t1", { title: "first", unread: 2 });
    rooms.changed("t1", "updated");
    expect(titles(client)).toEqual(["first", "t3", "t2"]);
    await browser.clock.advance(10);
    rooms.list("t4");
    rooms.changed("t4", "updated");
    rooms.changed("t3", "deleted");
    rooms.changed("unknown", "deleted");
    expect(titles(client)).toEqual(["t4", "first", "t2"]);
    expect(client.getSnapshot().threads.threads[1]?.unread).toBe(2);
  });

  it("is read again after events of its own session, once for several", async () => {
    const { browser, client } = await withThreads(1);
    client.followThreads();
    await browser.clock.advance(10);
    void client.sendMessage({ type: "user_message", payload: { content: "hello" } });
    browser.server.rooms.list("new", { runs_active: 1 });
    await browser.clock.advance(400);
    expect(titles(client)).toEqual(["new", "t1"]);
    expect(browser.server.of("list_threads")).toHaveLength(2);
    browser.server.rooms.list("new", { runs_active: 0 });
    browser.server.end(browser.server.run.id);
    await browser.clock.advance(400);
    expect(client.getSnapshot().threads.threads[0]?.runs_active).toBe(0);
  });

  it("has older threads on demand, and keeps them", async () => {
    const { browser, client } = await withThreads(120);
    client.followThreads();
    await browser.clock.advance(10);
    expect(titles(client)).toHaveLength(50);
    const more = client.loadMoreThreads();
    await browser.clock.advance(10);
    await more;
    expect(titles(client)).toHaveLength(100);
    browser.server.rooms.list("t119");
    browser.server.rooms.changed("t119", "updated");
    browser.server.rooms.list("t5", { updated_at: 1 });
    browser.server.rooms.changed("t5", "renamed"); // it is not in the list yet
    browser.server.socket.drop(1006);
    await browser.clock.advance(5_000);
    expect(titles(client)).toHaveLength(100);
    expect(client.getSnapshot().threads.hasMore).toBe(true);
    const rest = client.loadMoreThreads();
    await browser.clock.advance(10);
    await rest;
    expect(titles(client)).toHaveLength(120);
    expect(new Set(titles(client)).size).toBe(120);
    expect(client.getSnapshot().threads.hasMore).toBe(false);
    await client.loadMoreThreads();
    expect(browser.server.of("list_threads")).toHaveLength(4);
  });

  it("is asked for again after the time that a busy server states", async () => {
    const { browser, client } = await withThreads(1);
    const refuse = browser.server.rooms;
    const list = refuse.take.bind(refuse);
    let refusals = 2;
    refuse.take = (socket, message) => {
      if (message.type === "list_threads" && refusals > 0) {
        refusals -= 1;
        browser.server.error(socket, "RATE_LIMIT_EXCEEDED", message.correlation_id, { retry_after_ms: 500 });
      } else {
        list(socket, message);
      }
    };
    client.followThreads();
    await browser.clock.advance(10);
    expect(client.getSnapshot().threads).toMatchObject({ isLoaded: false, error: { code: "RATE_LIMIT_EXCEEDED" } });
    await browser.clock.advance(5_000);
    expect(client.getSnapshot().threads).toMatchObject({ isLoaded: true, error: null });
    refuse.take = (socket, message) => browser.server.error(socket, "UNKNOWN_MESSAGE_TYPE", message.correlation_id);
    browser.server.socket.drop(1006);
    await browser.clock.advance(60_000);
    expect(client.getSnapshot().threads.error?.code).toBe("UNKNOWN_MESSAGE_TYPE");
    expect(browser.server.of("list_threads")).toHaveLength(4);
  });

  it("is read once for all tabs of a session", async () => {
    const browser = new Browser();
    const clients = [];
    for (let n = 0; n < 5; n += 1) clients.push(await browser.tab().open());
    for (const client of clients) client.followThreads();
    await browser.clock.advance(3_000);
    const before = browser.server.of("list_threads").length;
    browser.server.rooms.list("t1");
    void clients[3]?.sendMessage({ type: "user_message", payload: { content: "hello" } });
    await browser.clock.advance(5_000);
    for (const client of clients) expect(titles(client)).toEqual(["t1"]);
    expect(browser.server.of("list_threads")).toHaveLength(before + 1);
  });

  it("is changed in every tab, and a deleted thread is shown in none", async () => {
    const browser = new Browser();
    const clients = [await browser.tab().open({ threadId: "main" }), await browser.tab().open({ threadId: "main" })];
    const changes: string[] = [];
    for (const client of clients) client.subscribe("thread_changed", ({ payload }) => changes.push(payload.change));
    void clients[1]?.sendMessage({ type: "user_message", payload: { content: "hello" } });
    await browser.clock.advance(10);
    browser.server.end(browser.server.run.id);
    browser.server.rooms.list("main");
    await browser.clock.advance(10);
    expect(clients[0]?.getSnapshot().messages).toHaveLength(2);
    void clients[1]?.deleteThread("main");
    await browser.clock.advance(10);
    expect(changes).toEqual(["deleted", "deleted"]);
    for (const client of clients) expect(client.getSnapshot().messages).toEqual([]);
  });

  it("has nothing of the user before", async () => {
    const browser = new Browser();
    const tab = browser.tab();
    const client = await tab.open();
    client.followThreads();
    browser.server.rooms.list("of alice");
    await browser.clock.advance(10);
    expect(titles(client)).toEqual(["of alice"]);
    browser.server.rooms.listed.clear();
    tab.token = tokenFor("bob");
    client.forceReconnect();
    await browser.clock.advance(10);
    expect(titles(client)).toEqual([]);
  });
});

describe("a thread", () => {
  it("is renamed, marked, rated and deleted, and each request resolves when it is done", async () => {
    const { browser, client } = await withThreads(2);
    client.followThreads();
    await browser.clock.advance(10);
    const done = [
      client.renameThread("t1", "A week in Lisbon"),
      client.markRead("t1", "m1"),
      client.sendFeedback("m2", "up"),
      client.sendFeedback("m2", null, "Not sure."),
      client.deleteThread("t2"),
    ];
    await browser.clock.advance(10);
    await Promise.all(done);
    expect(titles(client)).toEqual(["A week in Lisbon"]);
    expect(browser.server.of("feedback").map(({ payload }) => payload)).toEqual([
      { message_id: "m2", rating: "up" },
      { message_id: "m2", rating: null, comment: "Not sure." },
    ]);
    const unknown = client.renameThread("unknown", "x");
    void unknown.catch(() => undefined);
    await browser.clock.advance(10);
    await expect(unknown).rejects.toMatchObject({ body: { code: "THREAD_NOT_FOUND" } });
    await expect(client.renameThread("t1", " ")).rejects.toMatchObject({ body: { code: "VALIDATION_ERROR" } });
    await expect(client.renameThread("t1", "x".repeat(201))).rejects.toMatchObject({ body: { code: "VALIDATION_ERROR" } });
  });

  it("is found by its words", async () => {
    const { browser, client } = await withThreads(12);
    const found = client.listThreads({ query: "t1", limit: 2 });
    await browser.clock.advance(10);
    expect((await found).threads.map(({ title }) => title)).toEqual(["t12", "t11"]);
    expect((await found).has_more).toBe(true);
    expect(titles(client)).toEqual([]);
    client.close();
    await expect(client.listThreads()).rejects.toMatchObject({ body: { code: "CLOSED" } });
    expect(client.followThreads()()).toBeUndefined();
    expect(client.watchThread("t1")()).toBeUndefined();
  });
});
