/** Connections without a WebSocket: the transport that is used, and that nothing is lost on it. */

import { beforeAll, describe, expect, it } from "vitest";
import type { ClientMessage, NetraClient } from "../../src/index.js";
import { Browser, type Tab } from "../support/browser.js";
import { settle } from "../support/clock.js";
import { hello } from "../support/connected.js";
import { DOOR } from "../support/events.js";
import { tokenFor } from "../support/server.js";

const MINUTE = 60_000;
const MODES = ["sse", "long-poll"] as const;
type Mode = (typeof MODES)[number];

beforeAll(async () => {
  await import("../../src/connection/fallback.js"); // loaded later, in real time
});

interface Page {
  readonly browser: Browser;
  readonly tab: Tab;
  readonly client: NetraClient;
}

/** A page behind a proxy that prevents WebSockets. */
async function blocked(mode: Mode = "sse"): Promise<Page> {
  const browser = new Browser();
  browser.chance = 0;
  browser.server.doors = DOOR;
  browser.server.refusals = Infinity;
  browser.server.events.isBuffered = mode === "long-poll";
  const tab = browser.tab();
  const client = await tab.open();
  await browser.clock.advance(8_000);
  expect(transport(client)).toBe(mode);
  return { browser, tab, client };
}

const transport = (client: NetraClient): string | undefined => client.getSnapshot().connectionStats.transport;
const text = (client: NetraClient): string | undefined => client.getSnapshot().runs.at(-1)?.text;
/** The statuses from now on. */
function statuses(client: NetraClient): Set<string> {
  const seen = new Set<string>();
  client.subscribe(() => seen.add(client.getSnapshot().status));
  return seen;
}
const webSockets = ({ server }: Browser): number => server.sockets.filter(({ url }) => url.startsWith("wss:")).length;

describe("after failed upgrades", () => {
  it("the page connects by server-sent events, after the third attempt", async () => {
    const { browser, client } = await blocked();
    expect(client.getSnapshot()).toMatchObject({ status: "CONNECTED", lastError: null });
    expect(webSockets(browser)).toBe(2);
    expect(browser.server.events.streams).toHaveLength(1);
    const [request] = browser.server.events.requests;
    expect(request?.headers).toEqual({ Accept: "text/event-stream" });
    expect(request?.url).toMatch(/^https:\/\/page.example\/ws\/events\?ticket=/);
  });

  it.each(MODES)("the page speaks netra.v1 by %s: bytes of an answer are a reference, and none are sent", async (mode) => {
    const { browser, client } = await blocked(mode);
    expect(client.getSnapshot().session?.subprotocol).toBe("netra.v1");
    const withBytes = { ...hello, data: Uint8Array.of(1), media_type: "image/png" };
    expect(client.checkMessage(withBytes)?.code).toBe("BYTES_NOT_SUPPORTED");
    expect(await client.sendMessage(withBytes)).toBe(false);
    const sent = client.sendMessage(hello);
    await browser.clock.advance(100);
    expect(await sent).toBe(true);
    const { id } = browser.server.run;
    browser.server.say(id, "see: ");
    const file = browser.server.sayBytes(id, "image/png", new ArrayBuffer(3));
    await browser.clock.advance(100);
    expect(client.getSnapshot().runs).toMatchObject([{ text: "see: ", attachments: [{ file_id: file, bytes: 3 }] }]);
    expect(client.fileBytes(file)).toBeNull();
    expect(browser.server.bytes).toEqual([]);
  });

  it("the page stays with WebSockets if the server has no such door", async () => {
    const browser = new Browser();
    browser.server.refusals = 5;
    const client = await browser.tab().open();
    await browser.clock.advance(5 * MINUTE);
    expect(transport(client)).toBe("websocket");
    expect(browser.server.events.requests).toEqual([]);
  });

  it("the page stays with WebSockets if a refusal explains them", async () => {
    const browser = new Browser();
    browser.server.doors = DOOR;
    browser.server.refusals = 2;
    browser.chance = 0;
    const client = await browser.tab().open();
    browser.server.answers = [{ status: 503, retryAfter: "1" }];
    await browser.clock.advance(MINUTE);
    expect(transport(client)).toBe("websocket");
    expect(browser.server.events.requests).toEqual([]);
  });

  it("WebSockets that a proxy kills at once count as failures", async () => {
    const browser = new Browser();
    browser.server.doors = DOOR;
    browser.chance = 0;
    const client = await browser.tab().open();
    for (let n = 0; n < 3; n += 1) {
      expect(transport(client)).toBe("websocket");
      await browser.clock.advance(10_000);
      browser.server.socket.drop(1006);
      await browser.clock.advance(1_000);
    }
    expect(transport(client)).toBe("sse");
  });

  it("connections that deliver nothing but their first frame count as failures", async () => {
    const browser = new Browser();
    browser.server.doors = DOOR;
    browser.server.isMute = true;
    browser.chance = 0;
    const client = await browser.tab().open();
    const used = new Set<string | undefined>();
    for (let n = 0; n < 300; n += 1) {
      await browser.clock.advance(1_000);
      used.add(transport(client));
    }
    expect([...used].filter((one) => one !== undefined)).toEqual(["websocket", "sse", "long-poll"]);
  });

  it("long polls are used if no event comes in 5 s", async () => {
    const { browser, client } = await blocked("long-poll");
    expect(client.getSnapshot().lastError).toBeNull();
    expect(browser.server.events.polls.length).toBe(browser.server.events.streams.length - 1);
  });

  it("nothing loops if no way works", async () => {
    const browser = new Browser();
    browser.server.doors = DOOR;
    browser.server.refusals = Infinity;
    browser.chance = 0.999;
    browser.server.events.answers = Array.from({ length: 1_000 }, () => ({ status: 403, body: "<html>", type: "text/html" }));
    const client = await browser.tab().open();
    await browser.clock.advance(10 * MINUTE);
    expect(client.getSnapshot().status).toBe("RECONNECTING");
    expect(browser.server.events.requests.length + webSockets(browser)).toBeLessThan(30);
    expect(browser.server.events.polls.length).toBeGreaterThan(2);
  });

  it.each([
    ["the answer has another type", { status: 200, body: "data: 1\n\n", type: "text/html" }],
    ["the answer is empty", { status: 200, body: "", type: "text/event-stream" }],
    ["another frame is the first", { status: 200, body: `data: {"type": "heartbeat"}\n\n`, type: "text/event-stream" }],
    ["the first frame has no session", { status: 200, body: `data: {"type": "connection_established"}\n\n`, type: "text/event-stream" }],
    ["the close has no code", { status: 200, body: `event: close\ndata: x\n\n`, type: "text/event-stream" }],
    ["there is no answer", null],
  ])("the next attempt follows if %s", async (_, answer) => {
    const browser = new Browser();
    browser.server.doors = DOOR;
    browser.server.refusals = Infinity;
    browser.server.events.answers = [answer];
    const client = await browser.tab().open();
    await browser.clock.advance(20_000);
    expect(client.getSnapshot().status).toBe("CONNECTED");
    expect(browser.server.events.streams).toHaveLength(2);
  });

  it.each([
    { status: 200, body: "[]" },
    { status: 200, body: `{"frames": 1}` },
    { status: 200, body: `{"frames": []}` },
    { status: 200, body: `{"frames": [{"type": "heartbeat"}]}` },
    { status: 200, body: `{"frames": [], "close": {"code": 1012}}` },
  ])("the next attempt follows the poll %j", async (answer) => {
    const browser = new Browser();
    browser.server.doors = DOOR;
    browser.server.refusals = Infinity;
    browser.server.events.answers = [null, null, answer];
    const client = await browser.tab().open();
    await browser.clock.advance(2 * MINUTE);
    expect(client.getSnapshot().status).toBe("CONNECTED");
  });
});

describe("a refusal of the door", () => {
  const body = (code: string, recoverable: boolean): string =>
    JSON.stringify({ code, error: "Why.", help: "Help.", timestamp: 1, recoverable });

  it("is shown, its Retry-After is kept, and then WebSockets are tried again", async () => {
    const browser = new Browser();
    browser.chance = 0;
    browser.server.doors = DOOR;
    browser.server.refusals = 2;
    browser.server.events.answers = [{ status: 429, body: body("CONNECTION_LIMIT_EXCEEDED", true), retryAfter: "30" }];
    const client = await browser.tab().open();
    await browser.clock.advance(25_000);
    expect(client.getSnapshot()).toMatchObject({ status: "RECONNECTING", lastError: { code: "CONNECTION_LIMIT_EXCEEDED" } });
    await browser.clock.advance(10_000);
    expect(transport(client)).toBe("websocket");
  });

  it("is final if waiting does not help", async () => {
    const browser = new Browser();
    browser.server.doors = DOOR;
    browser.server.refusals = Infinity;
    browser.server.events.answers = [{ status: 403, body: body("USER_DISABLED", false) }];
    const client = await browser.tab().open();
    await browser.clock.advance(MINUTE);
    expect(client.getSnapshot()).toMatchObject({ status: "ERROR", lastError: { code: "USER_DISABLED" } });
  });
});

describe.each(MODES)("by %s", (mode) => {
  it("an answer arrives while it is written, and a stop stops it", async () => {
    const { browser, client } = await blocked(mode);
    const { server, clock } = browser;
    void client.sendMessage(hello);
    await clock.advance(100);
    for (const word of ["one ", "two ", "three"]) {
      server.say(server.run.id, word);
      await clock.advance(100);
      expect(text(client)?.endsWith(word)).toBe(true);
    }
    void client.stopRun(server.run.id);
    await clock.advance(100);
    expect(client.getSnapshot().runs.at(-1)).toMatchObject({ status: "cancelled", text: "one two three" });
    expect(client.getSnapshot()).toMatchObject({ isConnected: true, queued: 0 });
  });

  it("frames are posted one after the other, in order", async () => {
    const { browser, client } = await blocked(mode);
    browser.server.events.postTime = 300;
    for (let n = 0; n < 6; n += 1) void client.sendMessage({ type: "user_message", payload: { content: `m${n}` } });
    await browser.clock.advance(5_000);
    expect(browser.server.contents).toEqual(["m0", "m1", "m2", "m3", "m4", "m5"]);
    expect(browser.server.events.mostOpenPosts).toBe(1);
    const [post] = browser.server.events.requests.filter(({ method }) => method === "POST");
    expect(post?.headers).toEqual({ "Content-Type": "application/json", Authorization: `Bearer ${tokenFor("alice")}` });
    expect(post?.url).toContain(`/ws/messages?session_id=${browser.server.session.id}`);
  });

  it.each([503, 404, 401, 500])("a POST that is answered %d closes the connection, and the message is sent again", async (status) => {
    const { browser, client } = await blocked(mode);
    browser.server.events.postStatus = status;
    void client.sendMessage(hello);
    await browser.clock.advance(100);
    expect(client.getSnapshot().status).toBe("RECONNECTING");
    browser.server.events.postStatus = 202;
    await browser.clock.advance(5_000);
    expect(client.getSnapshot()).toMatchObject({ isConnected: true, queued: 0 });
    expect(transport(client)).toBe(mode);
    expect(browser.server.contents).toEqual(["hello"]);
  });

  it("a POST without an answer closes the connection, and the message is not doubled", async () => {
    const { browser, client } = await blocked(mode);
    browser.server.events.postTime = MINUTE;
    const sent = client.sendMessage(hello);
    await browser.clock.advance(1_000);
    browser.server.events.postTime = 5;
    browser.server.socket.drop(1006);
    await browser.clock.advance(5_000);
    expect(await sent).toBe(true);
    expect(browser.server.runs.size).toBe(1);
  });

  it("a message that is too large is not sent again", async () => {
    const { browser, client } = await blocked(mode);
    browser.server.events.postStatus = 413;
    void client.sendMessage(hello);
    await browser.clock.advance(MINUTE);
    expect(client.getSnapshot()).toMatchObject({ status: "ERROR", lastError: { code: "MESSAGE_TOO_LARGE" } });
  });

  it("nothing is lost or doubled if the connection is cut after any event", async () => {
    for (let every = 1; every <= 4; every += 1) {
      const { browser, client } = await blocked(mode);
      const { server, clock } = browser;
      void client.sendMessage(hello);
      await clock.advance(100);
      let said = "";
      for (let n = 1; n <= 24; n += 1) {
        server.say(server.run.id, `${n} `);
        said += `${n} `;
        await clock.advance(20);
        if (n % every !== 0) continue;
        if (mode === "sse") for (const socket of server.open) socket.drop(1006);
        else server.events.answers.push(null);
        await clock.advance(n % 3 === 0 ? 2_000 : 100);
      }
      server.end(server.run.id);
      await clock.advance(20_000);
      expect(client.getSnapshot().runs.at(-1)).toMatchObject({ status: "completed", text: said });
      expect(client.getSnapshot().isConnected).toBe(true);
    }
  });

  it("a close code of the server is that of a WebSocket", async () => {
    const { browser, client } = await blocked(mode);
    browser.chance = 0.999;
    browser.server.socket.drop(1012);
    await browser.clock.advance(50);
    expect(client.getSnapshot()).toMatchObject({ status: "RECONNECTING", lastError: { code: "SERVER_RESTART" } });
    await browser.clock.advance(20_000);
    expect(transport(client)).toBe(mode);
    browser.server.socket.drop(4403);
    await browser.clock.advance(50);
    expect(client.getSnapshot()).toMatchObject({ status: "ERROR", lastError: { code: "USER_DISABLED" } });
    expect(transport(client)).toBeUndefined();
  });

  it("a renewed token is that of later requests", async () => {
    const { browser, tab } = await blocked(mode);
    const newer = tokenFor("alice", 2_000_000_500);
    tab.token = newer;
    browser.server.control(browser.server.socket, "auth_expiring", { expires_at: browser.clock.now / 1000 + 60 });
    await browser.clock.advance(50_000);
    const posts = browser.server.events.requests.filter(({ method }) => method === "POST");
    expect(posts.at(-1)?.headers["Authorization"]).toBe(`Bearer ${newer}`);
    expect(browser.server.of("auth").map(({ payload }) => payload.token)).toContain(newer);
  });

  it("it lasts as long as the page if nothing happens", async () => {
    const { browser, client } = await blocked(mode);
    const { length } = browser.server.events.streams;
    for (let n = 0; n < 8; n += 1) {
      await browser.clock.advance(30_000);
      browser.server.control(browser.server.socket, "heartbeat", { server_time: 1 });
    }
    await browser.clock.advance(1_000);
    expect(client.getSnapshot()).toMatchObject({ isConnected: true, connectionStats: { errors_encountered: mode === "sse" ? 2 : 3 } });
    const more = browser.server.events.streams.length - length;
    expect(more).toBeLessThanOrEqual(mode === "sse" ? 0 : 25);
    expect(browser.server.of("pong")).toHaveLength(8);
  });

  it("what was sent before a disconnect is posted first", async () => {
    const { browser, client } = await blocked(mode);
    browser.server.events.postTime = 100;
    for (const content of ["one", "two"]) void client.sendMessage({ type: "user_message", payload: { content } });
    client.disconnect();
    await browser.clock.advance(50);
    expect(client.getSnapshot().status).toBe("DISCONNECTING");
    await browser.clock.advance(1_000);
    expect(browser.server.contents).toEqual(["one", "two"]);
    expect(client.getSnapshot().status).toBe("DISCONNECTED");
    const { length } = browser.server.events.requests;
    await browser.clock.advance(MINUTE);
    expect(browser.server.events.requests).toHaveLength(length);
    expect(browser.server.open).toHaveLength(mode === "sse" ? 0 : 1);
  });

  it("a disconnect of an idle page ends at once", async () => {
    const { browser, client } = await blocked(mode);
    client.disconnect();
    await settle();
    expect(client.getSnapshot().status).toBe("DISCONNECTED");
    expect(browser.clock.waiting).toBeLessThanOrEqual(1);
  });

  it("a server that drains is left before it closes, and nothing is lost", async () => {
    const { browser, client } = await blocked(mode);
    const { server, clock } = browser;
    server.closesFirst = false;
    const seen = statuses(client);
    void client.sendMessage(hello);
    await clock.advance(100);
    server.drain(server.socket);
    let said = "";
    for (let n = 0; n < 40; n += 1) {
      server.say(server.run.id, `${n} `);
      said += `${n} `;
      await clock.advance(1);
    }
    await clock.advance(1_000);
    expect(text(client)).toBe(said);
    expect(client.getSnapshot()).toMatchObject({ isConnected: true, session: { verdict: "exact" } });
    expect(seen).toEqual(new Set(["CONNECTED"]));
    expect(transport(client)).toBe(mode);
  });
});

describe("acknowledgements", () => {
  it("do not pile up behind a slow POST", async () => {
    const { browser, client } = await blocked();
    const { server, clock } = browser;
    void client.sendMessage(hello);
    await clock.advance(100);
    server.events.postTime = 10_000;
    for (let n = 0; n < 320; n += 1) server.say(server.run.id, "x");
    await clock.advance(25_000);
    expect(server.of("ack").length).toBeLessThanOrEqual(4);
    expect(server.session.acknowledged).toBe(server.session.seq);
  });

  it("are those of the polls themselves", async () => {
    const { browser, client } = await blocked("long-poll");
    const { server, clock } = browser;
    void client.sendMessage(hello);
    await clock.advance(100);
    for (let n = 0; n < 100; n += 1) server.say(server.run.id, "x");
    await clock.advance(2_000);
    expect(server.of("ack")).toEqual([]);
    expect(server.session.acknowledged).toBe(server.session.seq);
    expect(server.session.events).toEqual([]);
  });
});

describe("long polls", () => {
  it("drop what is delivered again, and do not loop", async () => {
    const { browser, client } = await blocked("long-poll");
    const { server, clock } = browser;
    server.events.repeats = true;
    void client.sendMessage(hello);
    await clock.advance(100);
    const { length } = server.events.polls;
    for (const word of ["a", "b", "c"]) {
      server.say(server.run.id, word);
      await clock.advance(1_000);
    }
    await clock.advance(7_000);
    expect(text(client)).toBe("abc");
    expect(server.events.polls.length - length).toBeLessThanOrEqual(14);
  });

  it("do not loop if control frames come at once", async () => {
    const { browser, client } = await blocked("long-poll");
    const { length } = browser.server.events.polls;
    const body = JSON.stringify({ frames: [{ type: "heartbeat", payload: { server_time: 1 }, timestamp: 1 }] });
    browser.server.events.answers = Array.from({ length: 100 }, () => ({ status: 200, body }));
    browser.server.control(browser.server.socket, "heartbeat", { server_time: 1 });
    await browser.clock.advance(10_000);
    expect(client.getSnapshot().isConnected).toBe(true);
    expect(browser.server.events.polls.length - length).toBeLessThanOrEqual(42);
  });

  it("connect anew if the server does", async () => {
    const { browser, client } = await blocked("long-poll");
    const established = browser.server.events.polls.length;
    browser.server.socket.deliver({ type: "connection_established", payload: { session_id: "s", resume: { last_seq: 0 } } });
    await browser.clock.advance(5_000);
    expect(client.getSnapshot()).toMatchObject({ isConnected: true, connectionStats: { reconnections: 1 } });
    expect(browser.server.events.polls[established]?.searchParams.has("session_id")).toBe(true);
  });

  it("resume the session after a lost answer, at once", async () => {
    const { browser, client } = await blocked("long-poll");
    browser.server.events.answers = [null];
    browser.server.control(browser.server.socket, "heartbeat", { server_time: 1 });
    await browser.clock.advance(3_000);
    expect(client.getSnapshot()).toMatchObject({ isConnected: true, session: { verdict: "exact" } });
    expect(client.getSnapshot().connectionStats.reconnections).toBe(1);
    expect(browser.server.events.polls.filter(({ searchParams }) => searchParams.get("resume") === "1")).toHaveLength(1);
  });

  it("end without an answer in 40 s", async () => {
    const { browser, client } = await blocked("long-poll");
    const stuck = browser.server.events.polls.length;
    const { upgradeTime } = browser.server;
    browser.server.upgradeTime = 10 * MINUTE;
    browser.server.control(browser.server.socket, "heartbeat", { server_time: 1 });
    await browser.clock.advance(39_000);
    browser.server.upgradeTime = upgradeTime;
    expect(browser.server.events.polls).toHaveLength(stuck + 1);
    await browser.clock.advance(10_000);
    expect(client.getSnapshot().isConnected).toBe(true);
    expect(client.getSnapshot().connectionStats.reconnections).toBe(1);
  });
});

describe("the way back", () => {
  it("is tried at the next reconnect after 5 minutes", async () => {
    const { browser, client } = await blocked();
    const tries = webSockets(browser);
    browser.server.socket.drop(1012);
    await browser.clock.advance(5_000);
    expect(webSockets(browser)).toBe(tries);
    await browser.clock.advance(5 * MINUTE);
    browser.server.socket.drop(1012);
    await browser.clock.advance(5_000);
    expect(webSockets(browser)).toBe(tries + 1);
    expect(transport(client)).toBe("sse");
    browser.server.refusals = 0;
    await browser.clock.advance(5 * MINUTE);
    browser.server.socket.drop(1012);
    await browser.clock.advance(5_000);
    expect(transport(client)).toBe("websocket");
  });

  it.each(MODES)("is tried every 10 minutes while nothing happens, from %s, without a break", async (mode) => {
    const { browser, client } = await blocked(mode);
    const { server } = browser;
    const seen = statuses(client);
    const tries = webSockets(browser);
    const idle = async (ms: number): Promise<void> => {
      for (let left = ms; left > 0; left -= 30_000) {
        server.control(server.socket, "heartbeat", { server_time: 1 });
        await browser.clock.advance(30_000);
      }
    };
    await idle(12 * MINUTE);
    expect(webSockets(browser)).toBe(tries + 1);
    expect(transport(client)).toBe(mode);
    server.refusals = 0;
    await idle(11 * MINUTE);
    expect(transport(client)).toBe("websocket");
    expect(seen).toEqual(new Set(["CONNECTED"]));
    expect(server.open.filter(({ url }) => !url.startsWith("wss:"))).toHaveLength(mode === "sse" ? 0 : server.open.length - 1);
    void client.sendMessage(hello);
    await browser.clock.advance(100);
    server.say(server.run.id, "by a WebSocket");
    expect(text(client)).toBe("by a WebSocket");
    const { length } = server.events.requests;
    await idle(11 * MINUTE);
    expect(server.events.requests).toHaveLength(length);
  });

  it("is not tried during a run", async () => {
    const { browser, client } = await blocked();
    const { server } = browser;
    const tries = webSockets(browser);
    void client.sendMessage(hello);
    for (let n = 0; n < 60; n += 1) {
      await browser.clock.advance(20_000);
      server.say(server.run.id, "x");
    }
    expect(webSockets(browser)).toBe(tries);
    server.end(server.run.id);
    await browser.clock.advance(10);
    expect(client.getSnapshot().isConnected).toBe(true);
  });

  it("loses nothing that happens meanwhile", async () => {
    const { browser, client } = await blocked();
    const { server, clock } = browser;
    server.refusals = 0;
    server.upgradeTime = 2_000;
    for (let left = 10 * MINUTE - 10_000; left > 0; left -= 10_000) {
      server.control(server.socket, "heartbeat", { server_time: 1 });
      await clock.advance(10_000);
    }
    while (webSockets(browser) < 3) await clock.advance(500);
    const sent = client.sendMessage(hello);
    await clock.advance(10);
    for (let n = 0; n < 30; n += 1) {
      server.say(server.run.id, `${n} `);
      await clock.advance(150);
    }
    expect(await sent).toBe(true);
    expect(transport(client)).toBe("websocket");
    expect(text(client)).toBe(Array.from({ length: 30 }, (_, n) => `${n} `).join(""));
  });

  it("makes room for a server that drains meanwhile", async () => {
    const { browser, client } = await blocked();
    const { server, clock } = browser;
    server.closesFirst = false;
    server.upgradeTime = 8_000;
    for (let left = 10 * MINUTE - 10_000; left > 0; left -= 10_000) {
      server.control(server.socket, "heartbeat", { server_time: 1 });
      await clock.advance(10_000);
    }
    while (webSockets(browser) < 3) await clock.advance(500);
    server.upgradeTime = 5;
    const seen = statuses(client);
    server.drain(server.socket);
    await clock.advance(20_000);
    expect(seen).toEqual(new Set(["CONNECTED"]));
    expect(server.events.streams).toHaveLength(2);
    expect(server.open).toHaveLength(1);
  });
});

it("the tabs of a page share a connection without a WebSocket", async () => {
  const { browser, client } = await blocked();
  const other = await browser.tab().open();
  expect(other.getSnapshot()).toMatchObject({ role: "follower", isConnected: true, connectionStats: { transport: "sse" } });
  void other.sendMessage(hello);
  await browser.clock.advance(100);
  browser.server.say(browser.server.run.id, "word");
  await browser.clock.advance(10);
  expect(other.getSnapshot().runs.at(-1)?.text).toBe("word");
  expect(client.getSnapshot().role).toBe("leader");
  expect(browser.server.received.some(({ type }: ClientMessage) => type === "user_message")).toBe(true);
});
