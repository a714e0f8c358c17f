/** Tabs of one user share one connection. */

import { describe, expect, it } from "vitest";
import type { NetraClient } from "../../src/index.js";
import { Browser, type Tab } from "../support/browser.js";
import { tokenFor } from "../support/server.js";

async function tenTabs(): Promise<{ browser: Browser; tabs: Tab[]; clients: NetraClient[] }> {
  const browser = new Browser();
  const tabs = Array.from({ length: 10 }, () => browser.tab());
  const clients: NetraClient[] = [];
  for (const tab of tabs) clients.push(await tab.open());
  return { browser, tabs, clients };
}

const say = (client: NetraClient, content: string): Promise<boolean> =>
  client.sendMessage({ type: "user_message", payload: { content } });

const shown = (client: NetraClient): string[] =>
  client.getSnapshot().messages.map(({ role, content }) => `${role}: ${content}`);

describe("ten tabs", () => {
  it("share one socket, and all are connected", async () => {
    const { browser, clients } = await tenTabs();
    expect(browser.server.sockets).toHaveLength(1);
    const snapshots = clients.map((client) => client.getSnapshot());
    expect(snapshots.map(({ role }) => role)).toEqual(["leader", ...Array<string>(9).fill("follower")]);
    expect(new Set(snapshots.map(({ status }) => status))).toEqual(new Set(["CONNECTED"]));
    expect(snapshots[9]?.config?.version).toBe("1.0");
    expect(new Set(snapshots.map(({ threadId }) => threadId)).size).toBe(10);
  });

  it("share one socket if they are opened at the same time", async () => {
    const browser = new Browser();
    const clients = await Promise.all(Array.from({ length: 10 }, () => browser.tab().open()));
    await browser.clock.advance(10);
    expect(browser.server.sockets).toHaveLength(1);
    expect(clients.every((client) => client.getSnapshot().isConnected)).toBe(true);
  });

  it("have a thread each, and receive only its events", async () => {
    const { browser, clients } = await tenTabs();
    const received: string[][] = clients.map(() => []);
    clients.forEach((client, n) => client.subscribe("partial_result", ({ payload }) => received[n]?.push(payload.content)));
    const sent = clients.map((client, n) => say(client, `question ${n}`));
    await browser.clock.advance(10);
    expect(await Promise.all(sent)).toEqual(Array<boolean>(10).fill(true));
    for (const run of [...browser.server.runs.values()]) {
      browser.server.say(run.id, `answer to ${run.key}`);
      browser.server.end(run.id);
    }
    await browser.clock.advance(10);
    for (const [n, client] of clients.entries()) {
      const key = client.getSnapshot().messages[0]?.correlation_id ?? "";
      expect(shown(client)).toEqual([`user: question ${n}`, `agent: answer to ${key}`]);
      expect(received[n]).toEqual([`answer to ${key}`]);
      expect(client.getSnapshot().queued).toBe(0);
    }
  });

  it("elect another leader when the leader closes: it resumes, and no event is lost or repeated", async () => {
    const { browser, tabs, clients } = await tenTabs();
    const [, second, third] = clients as [NetraClient, NetraClient, NetraClient];
    const numbers: number[] = [];
    third.subscribe("*", (message) => "seq" in message && numbers.push(message.seq));
    const sent = say(third, "hello");
    await browser.clock.advance(10);
    expect(await sent).toBe(true);
    const { id } = browser.server.run;
    browser.server.say(id, "one ");
    await browser.clock.advance(10);
    tabs[0]?.unload();
    browser.server.say(id, "two ");
    const during = say(third, "again");
    await browser.clock.advance(100);
    browser.server.say(id, "three");
    await browser.clock.advance(10);
    expect(browser.server.sockets).toHaveLength(2);
    expect(browser.server.open).toHaveLength(1);
    expect(second.getSnapshot()).toMatchObject({ role: "leader", session: { verdict: "exact" } });
    expect(third.getSnapshot()).toMatchObject({ role: "follower", status: "CONNECTED" });
    expect(await during).toBe(true);
    expect(shown(third).slice(0, 2)).toEqual(["user: hello", "agent: one two three"]);
    expect(numbers).toEqual(numbers.map((_, n) => n + 1));
    expect(browser.server.contents.filter((content) => content === "again")).toHaveLength(1);
  });

  it("elect another leader again and again, down to the last tab", async () => {
    const { browser, tabs, clients } = await tenTabs();
    const last = clients[9] as NetraClient;
    const sent = say(last, "hello");
    await browser.clock.advance(10);
    expect(await sent).toBe(true);
    const { id } = browser.server.run;
    for (const [n, tab] of tabs.slice(0, 9).entries()) {
      browser.server.say(id, `${n} `);
      tab.unload();
      browser.server.say(id, "+ ");
      await browser.clock.advance(2_000);
    }
    expect(last.getSnapshot()).toMatchObject({ role: "leader", isConnected: true });
    expect(shown(last)[1]).toBe("agent: 0 + 1 + 2 + 3 + 4 + 5 + 6 + 7 + 8 + ");
    expect(browser.server.sessions.size).toBe(1);
  });

  it("send the messages that were submitted to a leader that closed", async () => {
    const { browser, tabs, clients } = await tenTabs();
    browser.server.isUp = false;
    browser.server.socket.drop(1006);
    const sent = clients.map((client, n) => say(client, `question ${n}`));
    await browser.clock.advance(10);
    tabs[0]?.unload();
    await browser.clock.advance(10);
    tabs[1]?.unload();
    await browser.clock.advance(10);
    browser.server.isUp = true;
    await browser.clock.advance(60_000);
    expect(await Promise.all(sent.slice(2))).toEqual(Array<boolean>(8).fill(true));
    expect(browser.server.contents).toEqual(Array.from({ length: 10 }, (_, n) => `question ${n}`));
  });

  it("restore the state of a reloaded tab", async () => {
    const { browser, tabs, clients } = await tenTabs();
    void say(clients[4] as NetraClient, "hello");
    await browser.clock.advance(10);
    const { id } = browser.server.run;
    browser.server.event(id, "agent_thinking", { thought: "Hm" });
    browser.server.say(id, "one ");
    const client = await (tabs[4] as Tab).reload();
    browser.server.say(id, "two");
    await browser.clock.advance(10);
    expect(shown(client)).toEqual(["user: hello", "agent: one two"]);
    expect(client.getSnapshot().runs).toMatchObject([{ thoughts: [{ thought: "Hm" }] }]);
    expect(browser.server.sockets).toHaveLength(1);
  });

  it("read history, stop runs and reconnect through the leader", async () => {
    const { browser, clients } = await tenTabs();
    const client = clients[7] as NetraClient;
    void say(client, "hello");
    await browser.clock.advance(10);
    const stopped = client.stopRun(browser.server.run.id);
    browser.server.threads.set("old", [{ message_id: "m", role: "user", content: "x", created_at: 1 }]);
    const page = client.loadThread("old");
    const unknown = client.loadThread("unknown");
    const ping = client.sendMessage({ type: "ping", payload: {} });
    void unknown.catch(() => undefined);
    await browser.clock.advance(10);
    expect(await stopped).toBe(true);
    expect((await page).messages).toHaveLength(1);
    await expect(unknown).rejects.toMatchObject({ body: { code: "THREAD_NOT_FOUND" } });
    expect(await ping).toBe(true);
    client.forceReconnect();
    await browser.clock.advance(10);
    expect(browser.server.sockets).toHaveLength(2);
    expect(client.getSnapshot().isConnected).toBe(true);
  });

  it("wake the leader when any of them comes to the front", async () => {
    const { browser, tabs, clients } = await tenTabs();
    browser.chance = 0.999;
    browser.server.isUp = false;
    browser.server.socket.drop(1006);
    await browser.clock.advance(60_000);
    browser.server.isUp = true;
    tabs[6]?.page("visible");
    await browser.clock.advance(10);
    expect(clients[6]?.getSnapshot().isConnected).toBe(true);
  });

  it("show the state of the connection, and the reason if there is none", async () => {
    const { browser, clients } = await tenTabs();
    browser.server.socket.drop(4429);
    await browser.clock.advance(10);
    for (const client of clients) {
      expect(client.getSnapshot()).toMatchObject({ status: "ERROR", lastError: { code: "CONNECTION_LIMIT_EXCEEDED" } });
    }
    clients[5]?.clearError();
    await browser.clock.advance(10);
    expect(clients[8]?.getSnapshot().lastError).toBeNull();
  });
});

it("tabs of two users have two sockets, and share nothing", async () => {
  const browser = new Browser();
  const alice = browser.tab();
  const bob = browser.tab();
  bob.token = tokenFor("bob");
  const one = await alice.open();
  const two = await bob.open();
  void say(one, "alice's");
  await browser.clock.advance(10);
  expect(browser.server.open).toHaveLength(2);
  expect(shown(two)).toEqual([]);
  expect(two.getSnapshot().session?.user_id).toBe("bob");
});

describe("without Web Locks", () => {
  it("each tab has a connection of its own, and a session that survives a reload", async () => {
    const browser = new Browser();
    browser.hasLocks = false;
    const tabs = [browser.tab(), browser.tab()] as const;
    const one = await tabs[0].open();
    const two = await tabs[1].open();
    expect(browser.server.open).toHaveLength(2);
    const session = one.getSnapshot().session?.session_id;
    expect(two.getSnapshot().session?.session_id).not.toBe(session);
    const again = await tabs[0].reload();
    expect(again.getSnapshot()).toMatchObject({ role: "alone", session: { session_id: session, verdict: "exact" } });
  });

  it("a duplicated tab begins a session of its own, and does not take over the other one", async () => {
    const browser = new Browser();
    browser.hasLocks = false;
    const tab = browser.tab();
    const one = await tab.open();
    const copy = new Map<string, string>();
    const duplicate = browser.tab({
      get: (name) => copy.get(name) ?? tab.storage.get(name),
      set: (name, value) => void copy.set(name, value),
      remove: (name) => void copy.delete(name),
    });
    const two = await duplicate.open();
    expect(browser.server.open).toHaveLength(2);
    expect(one.getSnapshot().isConnected).toBe(true);
    expect(two.getSnapshot().session?.verdict).toBe("new");
  });
});

it("a tab that missed messages before the leader closed shows all events", async () => {
  const { browser, tabs, clients } = await tenTabs();
  const client = clients[3] as NetraClient;
  void say(client, "hello");
  await browser.clock.advance(10);
  browser.server.say(browser.server.run.id, "one ");
  await browser.clock.advance(10);
  browser.losesMessages = true;
  browser.server.say(browser.server.run.id, "two");
  await browser.clock.advance(10);
  browser.losesMessages = false;
  tabs[0]?.unload();
  await browser.clock.advance(100);
  expect(clients[1]?.getSnapshot()).toMatchObject({ role: "leader", isConnected: true });
  expect(shown(client)).toEqual(["user: hello", "agent: one two"]);
});

it("a tab that missed messages catches up", async () => {
  const { browser, clients } = await tenTabs();
  const client = clients[3] as NetraClient;
  void say(client, "hello");
  await browser.clock.advance(10);
  const { id } = browser.server.run;
  browser.server.say(id, "one ");
  await browser.clock.advance(10);
  browser.losesMessages = true;
  browser.server.say(id, "two ");
  await browser.clock.advance(10);
  browser.losesMessages = false;
  browser.server.say(id, "three");
  await browser.clock.advance(10);
  expect(shown(client)).toEqual(["user: hello", "agent: one two three"]);
});

describe("a tab whose token is refused", () => {
  const REFUSED = {
    status: 401,
    body: JSON.stringify({ code: "TOKEN_EXPIRED", error: "It has ended.", timestamp: 1, recoverable: false, help: "Log in." }),
  };

  /** Tickets are refused to all tokens but these. */
  function refuseAllBut(browser: Browser, good: ReadonlySet<string>): { refusals: () => number } {
    const { http } = browser.server;
    let refusals = 0;
    (browser.server as { http: typeof http }).http = (request) => {
      const token = request.headers["Authorization"]?.replace("Bearer ", "");
      if (token === undefined || good.has(token)) return http(request);
      refusals += 1;
      return Promise.resolve({ ...REFUSED, retryAfter: null });
    };
    return { refusals: () => refusals };
  }

  const fresh = `${tokenFor("alice")}-fresh`;

  it("gives way to a tab with a newer token, which connects for both", async () => {
    const browser = new Browser();
    const { refusals } = refuseAllBut(browser, new Set([fresh]));
    const one = await browser.tab().open();
    expect(one.getSnapshot()).toMatchObject({ status: "ERROR", lastError: { code: "TOKEN_EXPIRED" } });
    const tab = browser.tab();
    tab.token = fresh;
    const two = await tab.open();
    await browser.clock.advance(10);
    expect(two.getSnapshot()).toMatchObject({ role: "leader", status: "CONNECTED" });
    expect(one.getSnapshot()).toMatchObject({ role: "follower", status: "CONNECTED", lastError: null });
    expect(refusals()).toBe(2); // with the token, and once more with the newest there is
    expect(browser.server.sockets).toHaveLength(1);
    const sent = say(one, "hello");
    await browser.clock.advance(10);
    expect(await sent).toBe(true);
  });

  it("gives way until each tab has tried once", async () => {
    const browser = new Browser();
    const { refusals } = refuseAllBut(browser, new Set([fresh]));
    const clients: NetraClient[] = [];
    for (let n = 0; n < 5; n += 1) clients.push(await browser.tab().open());
    await browser.clock.advance(120_000);
    // Each of them has tried once, and then waits until its user asks.
    expect(refusals()).toBe(2 * 5);
    expect(clients.every((client) => client.getSnapshot().status === "ERROR")).toBe(true);
    const tab = browser.tab();
    tab.token = fresh;
    const last = await tab.open();
    await browser.clock.advance(1_000);
    expect(clients.every((client) => client.getSnapshot().isConnected)).toBe(true);
    expect(last.getSnapshot().isConnected).toBe(true);
    expect(browser.server.sockets).toHaveLength(1);
  });

  it("connects with the token of the tab whose user asks", async () => {
    const browser = new Browser();
    const good = new Set<string>();
    refuseAllBut(browser, good);
    const tabs = [browser.tab(), browser.tab(), browser.tab()] as const;
    const clients: NetraClient[] = [];
    for (const tab of tabs) clients.push(await tab.open());
    await browser.clock.advance(1_000);
    good.add(fresh);
    tabs[1].token = fresh;
    clients[1]?.forceReconnect();
    await browser.clock.advance(1_000);
    expect(clients.map((client) => client.getSnapshot().status)).toEqual(Array<string>(3).fill("CONNECTED"));
    expect(clients[1]?.getSnapshot().role).toBe("leader");
  });
});

it("a tab whose user changes while it waits to lead drops the messages of the previous user", async () => {
  const browser = new Browser();
  const first = browser.tab();
  const second = browser.tab();
  const one = await first.open();
  const two = await second.open();
  browser.server.isUp = false;
  browser.server.socket.drop(1006);
  void say(one, "alice's, one");
  void say(two, "alice's, two");
  await browser.clock.advance(10);
  second.token = tokenFor("bob");
  browser.server.isUp = true;
  first.unload();
  await browser.clock.advance(60_000);
  expect(two.getSnapshot()).toMatchObject({ isConnected: true, session: { user_id: "bob" } });
  expect(browser.server.contents).toEqual([]);
  expect(shown(two)).toEqual([]);
});

it("a request beyond the limit is declined in every tab", async () => {
  const browser = new Browser();
  await browser.tab().open();
  const follower = await browser.tab().open();
  browser.server.isMute = true;
  const pages = Array.from({ length: 101 }, () => follower.loadThread("old"));
  const outcomes = Promise.allSettled(pages);
  await browser.clock.advance(10);
  await expect(pages[100]).rejects.toMatchObject({ body: { code: "TOO_MANY_REQUESTS" } });
  follower.close();
  expect((await outcomes).filter(({ status }) => status === "rejected")).toHaveLength(101);
});

it("a tab that missed the end of its run learns that it has stopped", async () => {
  const { browser, clients } = await tenTabs();
  const client = clients[3] as NetraClient;
  void say(client, "hello");
  await browser.clock.advance(10);
  const { id } = browser.server.run;
  browser.losesMessages = true;
  const stopped = client.stopRun(id);
  browser.server.end(id, "cancelled");
  await browser.clock.advance(10);
  browser.losesMessages = false;
  void say(client, "next");
  await browser.clock.advance(10);
  expect(await stopped).toBe(true);
});

describe("a suspended leader", () => {
  it("is replaced by a tab that it does not answer, and follows once it is resumed", async () => {
    const browser = new Browser();
    const [first, second] = [browser.tab(), browser.tab()];
    const one = await first.open();
    const two = await second.open();
    const before = say(one, "before");
    await browser.clock.advance(2_000);
    expect(await before).toBe(true);
    browser.server.say(browser.server.run.id, "half ");
    await browser.clock.advance(10);
    first.suspend();
    const sent = say(two, "during");
    await browser.clock.advance(9_900);
    expect(browser.server.sockets).toHaveLength(1);
    await browser.clock.advance(200);
    expect(await sent).toBe(true);
    expect(two.getSnapshot()).toMatchObject({ role: "leader", status: "CONNECTED" });
    expect(browser.server.contents).toEqual(["before", "during"]);
    first.resume();
    await browser.clock.advance(100);
    expect(one.getSnapshot()).toMatchObject({ role: "follower", status: "CONNECTED", lastError: null });
    const [run] = browser.server.runs.values();
    browser.server.say(run?.id ?? "", "and whole");
    await browser.clock.advance(60_000);
    expect(shown(one)).toEqual(["user: before", "agent: half and whole"]);
    expect(browser.server.open).toHaveLength(1);
    expect(browser.server.sockets).toHaveLength(2);
    expect(browser.server.sessions.size).toBe(1);
  });

  it("is replaced by a tab that is opened meanwhile", async () => {
    const browser = new Browser();
    const tab = browser.tab();
    await tab.open();
    tab.suspend();
    const client = await browser.tab().open();
    expect(client.getSnapshot().status).not.toBe("CONNECTED");
    await browser.clock.advance(10_100);
    expect(client.getSnapshot()).toMatchObject({ role: "leader", status: "CONNECTED" });
  });

  it("is not replaced if the asking tab itself was suspended", async () => {
    const { browser, clients } = await tenTabs();
    const follower = clients[4] as NetraClient;
    browser.losesMessages = true;
    void say(follower, "hello");
    browser.clock.sleep(60_000);
    browser.losesMessages = false;
    await browser.clock.advance(20_000);
    expect(follower.getSnapshot().role).toBe("follower");
    expect(browser.server.sockets).toHaveLength(1);
  });
});
