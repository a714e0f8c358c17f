/** `sendMessage` settles in every state, for every kind of message. */

import { describe, expect, it } from "vitest";
import { createClient, type NetraClient, type OutgoingMessage } from "../../src/index.js";
import { Browser, type Tab } from "../support/browser.js";
import { settle } from "../support/clock.js";
import { tokenFor } from "../support/server.js";

interface Situation {
  readonly browser: Browser;
  readonly tab: Tab;
  readonly client: NetraClient;
}

async function open(prepare: (browser: Browser) => void = () => undefined): Promise<Situation> {
  const browser = new Browser();
  browser.server.rooms.room("news");
  prepare(browser);
  const tab = browser.tab();
  return { browser, tab, client: await tab.open() };
}

async function follower(): Promise<Situation & { readonly leader: Tab }> {
  const { browser, tab: leader } = await open();
  const tab = browser.tab();
  const client = await tab.open();
  expect(client.getSnapshot().role).toBe("follower");
  return { browser, tab, client, leader };
}

async function refused(status: number, code: string): Promise<Situation> {
  const body = JSON.stringify({ code, error: "No.", help: "Ask.", timestamp: 1, recoverable: false });
  const situation = await open(({ server }) => (server.answers = [{ status, body }]));
  expect(situation.client.getSnapshot().status).toBe("ERROR");
  return situation;
}

/** In each state nothing more happens by itself, unless the client does it. */
const STATES: Readonly<Record<string, () => Promise<Situation>>> = {
  connected: () => open(),
  "before connect": async () => {
    const browser = new Browser();
    const tab = browser.tab();
    return { browser, tab, client: createClient({ getToken: tab.getToken }, tab.ports) };
  },
  disconnected: async () => {
    const situation = await open();
    situation.client.disconnect();
    return situation;
  },
  closed: async () => {
    const situation = await open();
    situation.client.close();
    return situation;
  },
  "ERROR after 403": () => refused(403, "USER_DISABLED"),
  "ERROR after 401, and clearError": async () => {
    const situation = await open(({ server }) => (server.answers = Array.from({ length: 3 }, () => ({ status: 401 }))));
    // The first answer was that of the discovery.
    expect(situation.client.getSnapshot().status).toBe("ERROR");
    situation.client.clearError();
    return situation;
  },
  "ERROR after a close code": async () => {
    const situation = await open();
    situation.browser.server.socket.drop(4403);
    return situation;
  },
  "ERROR after the last attempt": async () => {
    const browser = new Browser();
    browser.server.isUp = false;
    const tab = browser.tab();
    const client = await tab.open({ maxReconnectAttempts: 1 });
    await browser.clock.advance(10_000);
    expect(client.getSnapshot().status).toBe("ERROR");
    return { browser, tab, client };
  },
  "a full outbox": async () => {
    const situation = await open();
    situation.client.disconnect();
    for (let n = 0; n < 500; n += 1) {
      void situation.client.sendMessage({ type: "user_message", payload: { content: `${n}` } });
    }
    return situation;
  },
  "no storage": () => {
    const full = { get: () => null, set: () => { throw new Error("full"); }, remove: () => undefined };
    const browser = new Browser();
    const tab = browser.tab(full);
    return tab.open({ shareAcrossTabs: false }).then((client) => ({ browser, tab, client }));
  },
  "a lost line": async () => {
    const situation = await open();
    situation.browser.server.socket.drop(1006);
    return situation;
  },
  "a dead line": async () => {
    const situation = await open();
    const { socket } = situation.browser.server;
    socket.onData = () => undefined;
    return situation;
  },
  "another user": async () => {
    const situation = await open();
    situation.tab.token = tokenFor("bob");
    situation.browser.server.socket.drop(4401);
    return situation;
  },
  "a server that refuses for now": async () => {
    const situation = await open();
    situation.browser.server.rejection = { code: "SERVICE_UNAVAILABLE", retry_after_ms: 0 };
    situation.browser.clock.timers.setTimeout(() => (situation.browser.server.rejection = null), 20_000);
    return situation;
  },
  "a tab that follows": () => follower(),
  "a tab whose leader closes": async () => {
    const situation = await follower();
    situation.browser.clock.timers.setTimeout(() => situation.leader.unload(), 5);
    situation.browser.server.isMute = true;
    situation.browser.clock.timers.setTimeout(() => (situation.browser.server.isMute = false), 6);
    return situation;
  },
  "a tab whose leader is suspended": async () => {
    const situation = await follower();
    situation.leader.suspend();
    return situation;
  },
  "a tab whose leader was refused": async () => {
    const situation = await follower();
    situation.browser.server.socket.drop(4403);
    return situation;
  },
};

const KINDS: Readonly<Record<string, OutgoingMessage>> = {
  user_message: { type: "user_message", payload: { content: "hello" } },
  agent_request: { type: "agent_request", payload: { agent: "echo", input: {} } },
  ping: { type: "ping", payload: {} },
  stop_agent: { type: "stop_agent", payload: { run_id: "run-of-another-time" } },
  get_thread_history: { type: "get_thread_history", payload: { thread_id: "main" } },
  answer: { type: "answer", payload: { question_id: "q-of-another-time", approve: true } },
  room_message: { type: "room_message", payload: { room: "news", content: "hello" } },
  list_threads: { type: "list_threads", payload: {} },
  "an invalid message": { type: "user_message", payload: { content: " " } },
  "a message that is too large": { type: "user_message", payload: { content: "x".repeat(11_000) } },
  "a type of the client's own": { type: "auth", payload: { token: "x" } },
};

const REFUSED = new Set(["an invalid message", "a type of the client's own"]);
const CONFIRMED = new Set(["user_message", "agent_request", "ping"]);
/** In these states the client gets a connection by itself. */
const REACHES_THE_SERVER = new Set([
  "connected",
  "no storage",
  "a lost line",
  "a dead line",
  "a server that refuses for now",
  "a tab that follows",
  "a tab whose leader closes",
  "a tab whose leader is suspended",
]);

describe.each(Object.keys(STATES))("sendMessage, in the state %s,", (state) => {
  it.each(Object.keys(KINDS))("settles %s", async (kind) => {
    const { browser, client } = await (STATES[state] as () => Promise<Situation>)();
    const outcomes: boolean[] = [];
    client.sendMessage(KINDS[kind] as OutgoingMessage).then(
      (ok) => outcomes.push(ok),
      () => outcomes.push(false),
    );
    await settle();
    if (REFUSED.has(kind)) expect(outcomes).toEqual([false]);
    await browser.clock.advance(60_000);
    expect(outcomes).toHaveLength(1);
    if (REACHES_THE_SERVER.has(state) && CONFIRMED.has(kind)) expect(outcomes).toEqual([true]);
    if (REFUSED.has(kind) || kind.includes("large")) expect(outcomes).toEqual([false]);
    client.close();
  });
});

describe("a message without a connection", () => {
  const hello = { type: "user_message", payload: { content: "hello" }, correlation_id: "k" };

  it("resolves to true if the application connects within five seconds", async () => {
    const browser = new Browser();
    const tab = browser.tab();
    const client = createClient({ getToken: tab.getToken }, tab.ports);
    const sent = client.sendMessage(hello);
    await browser.clock.advance(4_900);
    client.connect();
    await browser.clock.advance(10);
    expect(await sent).toBe(true);
  });

  it("resolves to false after that, stays queued, and is sent with the next connection", async () => {
    const { browser, client } = await open();
    client.disconnect();
    await browser.clock.advance(1_000);
    const key = client.sendOptimisticMessage("hello");
    const message = { ...hello, correlation_id: key };
    const sent = client.sendMessage(message);
    const page = client.loadThread("main").catch((error: unknown) => error);
    await browser.clock.advance(5_000);
    expect(await sent).toBe(false);
    expect(await page).toMatchObject({ body: { code: "NOT_CONNECTED" } });
    expect(client.getSnapshot()).toMatchObject({ queued: 1, messages: [{ status: "pending" }], lastError: null });
    const again = client.sendMessage(message);
    client.connect();
    await browser.clock.advance(2_000);
    expect(await again).toBe(true);
    expect(browser.server.contents).toEqual(["hello"]);
    expect(client.getSnapshot()).toMatchObject({ queued: 0 });
    expect(client.getSnapshot().messages[0]).toMatchObject({ status: "confirmed" });
  });

  it("is sent after a reload, too", async () => {
    const { browser, client, tab } = await open();
    client.disconnect();
    void client.sendMessage(hello);
    await browser.clock.advance(10_000);
    const next = await tab.reload();
    expect(browser.server.contents).toEqual(["hello"]);
    expect(next.getSnapshot().queued).toBe(0);
  });

  it("keeps no timer once nothing waits, or the client is closed", async () => {
    const { browser, client } = await open();
    client.disconnect();
    await browser.clock.advance(2_000);
    const before = browser.clock.waiting;
    void client.sendMessage(hello);
    expect(browser.clock.waiting).toBe(before + 1);
    client.close();
    expect(browser.clock.waiting).toBe(before);
  });

  it("reads the history of a thread that was opened meanwhile", async () => {
    const { browser, client } = await open();
    browser.server.threads.set("old", [{ message_id: "m1", role: "user", content: "long ago", created_at: 1 }]);
    await client.sendMessage(hello);
    client.disconnect();
    client.openThread("old");
    await browser.clock.advance(10_000);
    expect(client.getSnapshot().messages).toEqual([]);
    client.connect();
    await browser.clock.advance(10);
    expect(client.getSnapshot()).toMatchObject({ session: { verdict: "exact" }, messages: [{ content: "long ago" }] });
  });
});
