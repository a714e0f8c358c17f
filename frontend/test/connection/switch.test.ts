/** The next socket is opened before a draining server closes the present one. */

import { describe, expect, it } from "vitest";
import type { NetraClient, Status } from "../../src/index.js";
import { settle } from "../support/clock.js";
import { connected, hello } from "../support/connected.js";
import { Browser } from "../support/browser.js";
import { tokenFor, type FakeServer } from "../support/server.js";
import type { FakeSocket } from "../support/socket.js";

const PIECES = ["He", "l", "lo ", "Wörld ", "😀", "!", " And", " more."];
const ORDERS = [
  ["closes the old socket first", true],
  ["sends the first frame first", false],
] as const;

const text = (client: NetraClient): string =>
  client.getSnapshot().messages.filter(({ role }) => role === "agent").map(({ content }) => content).join("");

interface Seen {
  readonly numbers: number[];
  readonly statuses: Set<Status>;
}

/** Records the numbers of the events, and every status of the client. */
function watch(client: NetraClient): Seen {
  const seen: Seen = { numbers: [], statuses: new Set([client.getSnapshot().status]) };
  client.subscribe(() => seen.statuses.add(client.getSnapshot().status));
  client.subscribe("*", (message) => {
    if (!("seq" in message)) return;
    for (let seq = message.seq_from ?? message.seq; seq <= message.seq; seq += 1) seen.numbers.push(seq);
  });
  return seen;
}

const inOrder = (length: number): number[] => Array.from({ length }, (_, index) => index + 1);

function socketAt(server: FakeServer, index: number): FakeSocket {
  const socket = server.sockets[index];
  if (socket === undefined) throw new Error(`there is no socket ${index}`);
  return socket;
}

/** A client with a run, whose server drains: another socket is being opened. */
async function opening(): Promise<{
  browser: Browser;
  server: FakeServer;
  client: NetraClient;
  seen: Seen;
  old: FakeSocket;
  next: FakeSocket;
  run: string;
}> {
  const { browser, client } = await connected();
  const { server } = browser;
  const seen = watch(client);
  await client.sendMessage(hello);
  const run = server.run.id;
  server.say(run, "a");
  const old = server.socket;
  server.upgradeTime = 1_000;
  server.drain(old);
  await browser.clock.advance(0);
  return { browser, server, client, seen, old, next: socketAt(server, 1), run };
}

describe("a server that drains", () => {
  it.each(ORDERS)("is left without a pause if the next one %s", async (_, closesFirst) => {
    const { browser, server, client, seen, old, next, run } = await opening();
    server.closesFirst = closesFirst;
    expect(next.query.get("last_seq")).toBe("3");
    server.say(run, "b");
    server.say(run, "c");
    await browser.clock.advance(900);
    expect(text(client)).toBe("a");
    expect(server.open).toEqual([old]);
    await browser.clock.advance(200);
    expect(server.open).toEqual([next]);
    server.say(run, "d");
    expect(text(client)).toBe("abcd");
    expect(seen.numbers).toEqual(inOrder(6));
    expect(seen.statuses).toEqual(new Set(["CONNECTED"]));
    expect(client.getSnapshot()).toMatchObject({
      lastError: null,
      session: { verdict: "exact" },
      connectionStats: { reconnections: 1, errors_encountered: 0 },
    });
  });

  it("is left after the time that it asks for", async () => {
    const { browser } = await connected();
    browser.server.drain(browser.server.socket, 3_000);
    browser.server.drain(browser.server.socket, 0);
    await browser.clock.advance(2_900);
    expect(browser.server.sockets).toHaveLength(1);
    await browser.clock.advance(200);
    expect(browser.server.sockets).toHaveLength(2);
    expect(browser.server.open).toHaveLength(1);
  });

  it("gets control frames meanwhile, and no message and no acknowledgement above last_seq", async () => {
    const { browser, server, client, old, next, run } = await opening();
    for (let n = 0; n < 100; n += 1) server.say(run, "b");
    server.control(old, "heartbeat", { server_time: 1 });
    server.threads.set("other", []);
    const page = client.loadThread("other");
    const sent = client.sendMessage({ type: "user_message", payload: { content: "again" } });
    await browser.clock.advance(900);
    expect(server.of("pong")).toHaveLength(1);
    expect(await page).toMatchObject({ thread_id: "other" });
    expect(server.contents).toEqual(["hello"]);
    for (const { payload } of server.of("ack")) expect(payload.seq).toBeLessThanOrEqual(3);
    await browser.clock.advance(200);
    expect(server.socket).toBe(next);
    expect(await sent).toBe(true);
    expect(server.contents).toEqual(["hello", "again"]);
  });

  it("gets an unconfirmed message again on the new socket, under its key", async () => {
    const { browser, client } = await connected();
    const { server } = browser;
    server.isMute = true;
    const sent = client.sendMessage({ ...hello, correlation_id: "k1" });
    await settle();
    server.isMute = false;
    server.drain(server.socket);
    await browser.clock.advance(10);
    expect(await sent).toBe(true);
    expect(server.of("user_message").map((m) => m.correlation_id)).toEqual(["k1", "k1"]);
    expect(server.runs.size).toBe(1);
  });

  it("is not left by a client that does not acknowledge", async () => {
    const browser = new Browser();
    browser.server.selects = () => "";
    await browser.tab().open();
    browser.server.drain(browser.server.socket);
    await browser.clock.advance(5_000);
    expect(browser.server.sockets).toHaveLength(1);
  });

  it.each(ORDERS)("merges text that came on both sockets, and %s", async (_, closesFirst) => {
    const { browser, server, client, seen, next, run } = await opening();
    server.closesFirst = closesFirst;
    server.say(run, "b");
    server.say(run, "c");
    const [b, c] = server.session.events.splice(-2);
    const payload = { run_id: run, content: "bc" };
    server.session.events.push({ ...c, payload, seq_from: b?.seq } as never);
    await browser.clock.advance(1_100);
    expect(server.socket).toBe(next);
    expect(text(client)).toBe("abc");
    expect(seen.numbers).toEqual(inOrder(5));
  });
});

describe.each(ORDERS)("the next server %s", (_, closesFirst) => {
  // The confirmation, the start and the pieces come on one socket after the other.
  it.each(inOrder(10))("and the old one drains after each %i events: every event once", async (every) => {
    const { browser, client } = await connected();
    const { server } = browser;
    server.closesFirst = closesFirst;
    const seen = watch(client);
    await client.sendMessage(hello);
    const { id } = server.run;
    for (const [index, piece] of [...PIECES, ...PIECES].entries()) {
      if (index % every === 0) server.drain(server.socket);
      await browser.clock.advance(index % 4 === 0 ? 2 : 0);
      server.say(id, piece);
    }
    server.end(id);
    await browser.clock.advance(1_000);
    expect(text(client)).toBe([...PIECES, ...PIECES].join(""));
    expect(seen.numbers).toEqual(inOrder(2 + 2 * PIECES.length + 1));
    expect(seen.statuses).toEqual(new Set(["CONNECTED"]));
    expect(client.getSnapshot().connectionStats.reconnections).toBe(server.sockets.length - 1);
    expect(server.sockets.length).toBeGreaterThan(1);
  });

  it.each(inOrder(20))("and connections are lost after each %i frames: every event once", async (frames) => {
    const { browser, client } = await connected();
    const { server } = browser;
    server.closesFirst = closesFirst;
    const seen = watch(client);
    await client.sendMessage(hello);
    const { id } = server.run;
    for (const piece of [...PIECES, ...PIECES]) {
      for (const socket of server.open) {
        if (socket.framesLeft === Infinity) socket.framesLeft = frames;
        server.drain(socket);
      }
      await browser.clock.advance(3);
      server.say(id, piece);
    }
    server.end(id);
    await browser.clock.advance(30_000);
    expect(text(client)).toBe([...PIECES, ...PIECES].join(""));
    expect(seen.numbers).toEqual(inOrder(2 + 2 * PIECES.length + 1));
  });
});

describe("an attempt that fails", () => {
  it("because of an answer to the ticket changes nothing, and is repeated with pauses", async () => {
    const { browser, client } = await connected();
    const { server } = browser;
    const seen = watch(client);
    browser.chance = 0.999;
    await client.sendMessage(hello);
    const old = server.socket;
    const begun = server.requests.length;
    server.answers = Array.from({ length: 100 }, () => ({ status: 503, retryAfter: "1" }));
    server.drain(old, 1_000);
    for (let n = 0; n < 80; n += 1) {
      server.say(server.run.id, "x");
      await browser.clock.advance(100);
    }
    // After 1 s, and then after 1, 2 and 4 s.
    expect(server.requests.length - begun).toBe(4);
    expect(text(client)).toBe("x".repeat(80));
    expect(seen.statuses).toEqual(new Set(["CONNECTED"]));
    expect(client.getSnapshot()).toMatchObject({ lastError: null, connectionStats: { errors_encountered: 0 } });
    server.answers = [];
    server.end(server.run.id);
    old.drop(1012);
    expect(client.getSnapshot()).toMatchObject({ status: "RECONNECTING", retry: { attempt: 1 } });
    await browser.clock.advance(1_100);
    expect(client.getSnapshot().status).toBe("CONNECTED");
    expect(seen.numbers).toEqual(inOrder(83));
  });

  it("because the socket does not open takes what was held back", async () => {
    const { browser, server, client, seen, old, next, run } = await opening();
    browser.chance = 0.2;
    server.refusals = 1;
    server.say(run, "b");
    await browser.clock.advance(900);
    expect(text(client)).toBe("a");
    await browser.clock.advance(110);
    expect(next.state).toBe("closed");
    expect(text(client)).toBe("ab");
    server.say(run, "c");
    expect(text(client)).toBe("abc");
    await browser.clock.advance(300);
    expect(server.sockets).toHaveLength(3);
    expect(socketAt(server, 2).query.get("last_seq")).toBe("5");
    await browser.clock.advance(1_000);
    expect(server.open).toEqual([socketAt(server, 2)]);
    expect(old.state).toBe("closed");
    expect(seen.statuses).toEqual(new Set(["CONNECTED"]));
  });

  it("because of another first frame takes what was held back", async () => {
    const { browser, server, client, old, next, run } = await opening();
    server.say(run, "b");
    next.state = "open";
    next.deliverText("not JSON");
    expect(next.state).toBe("closed");
    expect(text(client)).toBe("ab");
    server.say(run, "c");
    expect(text(client)).toBe("abc");
    await browser.clock.advance(0);
    expect(old.state).toBe("open");
  });

  it("may have taken the session over: then the client reconnects", async () => {
    const { browser, server, client, old } = await opening();
    server.refusals = 1;
    browser.chance = 0.999;
    await browser.clock.advance(1_000);
    old.drop(4409);
    expect(client.getSnapshot()).toMatchObject({ status: "RECONNECTING", lastError: { code: "CONNECTION_LOST" } });
    await browser.clock.advance(3_000);
    expect(client.getSnapshot()).toMatchObject({ status: "CONNECTED", lastError: null });
    server.socket.drop(4409);
    expect(client.getSnapshot().status).toBe("ERROR");
  });

  it.each([[new Error("offline")], [tokenFor("bob")]])("for want of a token is repeated", async (token) => {
    const { browser, client, tab } = await connected();
    const { server } = browser;
    browser.chance = 0;
    const seen = watch(client);
    tab.token = typeof token === "string" ? token : () => Promise.reject(token);
    server.drain(server.socket);
    await browser.clock.advance(400);
    expect(server.sockets).toHaveLength(1);
    tab.token = tokenFor("alice");
    await browser.clock.advance(300);
    expect(server.sockets).toHaveLength(2);
    expect(seen.statuses).toEqual(new Set(["CONNECTED"]));
    expect(client.getSnapshot()).toMatchObject({ lastError: null, session: { user_id: "alice" } });
  });

  it("does not drive a loop", async () => {
    const { browser } = await connected();
    browser.chance = 0;
    for (let n = 0; n < 1_000; n += 1) {
      for (const socket of browser.server.open) browser.server.drain(socket);
      await browser.clock.advance(10);
    }
    expect(browser.server.sockets.length).toBeGreaterThan(10);
    expect(browser.server.sockets.length).toBeLessThanOrEqual(2 + 4 * 10);
    browser.chance = 0.999;
    const before = browser.server.sockets.length;
    for (let n = 0; n < 1_000; n += 1) {
      for (const socket of browser.server.open) browser.server.drain(socket);
      await browser.clock.advance(10);
    }
    expect(browser.server.sockets.length - before).toBeLessThan(4);
  });
});

describe("the old socket", () => {
  it.each([1012, 1006])("that is closed with %i before the first frame leaves the attempt going", async (code) => {
    const { browser, server, client, seen, old, next, run } = await opening();
    server.say(run, "b");
    await browser.clock.advance(100);
    old.drop(code);
    expect(client.getSnapshot()).toMatchObject({ status: "RECONNECTING", lastError: { recoverable: true } });
    expect(text(client)).toBe("a");
    await browser.clock.advance(1_000);
    expect(server.sockets).toHaveLength(2);
    expect(server.socket).toBe(next);
    expect(text(client)).toBe("ab");
    expect(seen.numbers).toEqual(inOrder(4));
    expect(client.getSnapshot()).toMatchObject({ status: "CONNECTED", lastError: null });
    next.drop(1006);
    await browser.clock.advance(2_000);
    expect(client.getSnapshot().status).toBe("CONNECTED");
  });

  it("that is closed before the attempt fails is reconnected as usual", async () => {
    const { browser, server, client, old, run } = await opening();
    server.say(run, "b");
    server.refusals = 1;
    old.drop(1012);
    await browser.clock.advance(1_000);
    expect(client.getSnapshot()).toMatchObject({ status: "RECONNECTING", lastError: { code: "OPENING_FAILED" } });
    await browser.clock.advance(3_000);
    expect(client.getSnapshot().status).toBe("CONNECTED");
    expect(text(client)).toBe("ab");
  });

  it.each([4403, 4429, 1000])("that is closed with %i ends the attempt", async (code) => {
    const { browser, client, old, next } = await opening();
    old.drop(code);
    expect(next.state).toBe("closed");
    await browser.clock.advance(60_000);
    expect(browser.server.open).toEqual([]);
    expect(client.getSnapshot().status).toBe(code === 1000 ? "DISCONNECTED" : "ERROR");
  });

  it("that is taken over before another one is being opened stops the client", async () => {
    const { browser, client } = await connected();
    browser.server.drain(browser.server.socket, 1_000);
    browser.server.socket.drop(4409);
    await browser.clock.advance(60_000);
    expect(client.getSnapshot().status).toBe("ERROR");
    expect(browser.server.sockets).toHaveLength(1);
  });

  it("that sends without end is dropped", async () => {
    const { browser, server, client, next, run } = await opening();
    for (let n = 0; n < 10_000; n += 1) server.say(run, "b");
    expect(client.getSnapshot().status).toBe("CONNECTED");
    server.say(run, "b");
    expect(client.getSnapshot()).toMatchObject({ status: "RECONNECTING", lastError: { code: "BAD_SERVER_FRAME" } });
    expect(next.state).toBe("closed");
    await browser.clock.advance(3_000);
    expect(text(client)).toBe("a" + "b".repeat(10_001));
  });

  it("holds back events that the client cannot read, too", async () => {
    const { browser, server, client, seen, old } = await opening();
    server.refusals = 1;
    server.session.seq += 1;
    old.deliver({ type: "of_the_future", payload: {}, timestamp: 1, seq: 4 });
    expect(client.getSnapshot().lastError).toBeNull();
    server.say(server.run.id, "b");
    await browser.clock.advance(1_000);
    expect(text(client)).toBe("ab");
    expect(seen.numbers).toEqual([1, 2, 3, 5]);
  });
});

describe("a server without the session", () => {
  it("is left while a run is not over, and the old one goes on", async () => {
    const { browser, server, client, seen, old, next, run } = await opening();
    const session = server.session;
    server.say(run, "b");
    server.sessions.delete(session.id);
    await browser.clock.advance(1_000);
    expect(next.state).toBe("closed");
    expect(next.closedWith).toBe(1000);
    server.sessions.set(session.id, session);
    server.say(run, "c");
    server.end(run);
    expect(text(client)).toBe("abc");
    await browser.clock.advance(60_000);
    expect(server.sockets).toHaveLength(2);
    expect(seen.statuses).toEqual(new Set(["CONNECTED"]));
    server.sessions.delete(session.id);
    old.drop(1012);
    await browser.clock.advance(2_000);
    expect(client.getSnapshot().session).toMatchObject({ verdict: "reset", reason: "unknown" });
  });

  it("is used if no run is lost, and the client says so", async () => {
    const { browser, client } = await connected();
    const { server } = browser;
    const seen = watch(client);
    server.sessions.delete(server.session.id);
    server.drain(server.socket);
    await browser.clock.advance(10);
    expect(client.getSnapshot().session).toMatchObject({ verdict: "reset", reason: "unknown" });
    expect(seen.statuses).toEqual(new Set(["CONNECTED"]));
    expect(server.open).toHaveLength(1);
  });

  it("says what is missing after a gap", async () => {
    const { browser, server, client, run } = await opening();
    for (const piece of ["b", "c"]) server.say(run, piece);
    server.session.events.splice(0, server.session.events.length - 1);
    await browser.clock.advance(1_010);
    expect(client.getSnapshot().session?.verdict).toBe("gap");
    server.say(run, "d");
    expect(text(client)).toBe("abcd");
  });
});

describe("the application", () => {
  it("disconnects while another socket is being opened", async () => {
    const { browser, client, next } = await opening();
    client.disconnect();
    await browser.clock.advance(60_000);
    expect(next.state).toBe("closed");
    expect(browser.server.open).toEqual([]);
    expect(client.getSnapshot().status).toBe("DISCONNECTED");
  });

  it("closes the client while a token is awaited", async () => {
    const { browser, client, tab } = await connected();
    let give: (token: string) => void = () => undefined;
    tab.token = () => new Promise((resolve) => (give = resolve));
    browser.server.drain(browser.server.socket);
    await browser.clock.advance(0);
    client.close();
    give(tokenFor("alice"));
    await browser.clock.advance(1_000);
    expect(browser.server.sockets).toHaveLength(1);
    expect(browser.clock.waiting).toBe(0);
  });

  it("reconnects while another socket is being opened", async () => {
    const { browser, client, next } = await opening();
    client.forceReconnect();
    expect(next.state).toBe("closed");
    await browser.clock.advance(1_100);
    expect(client.getSnapshot().isConnected).toBe(true);
    expect(browser.server.open).toHaveLength(1);
  });
});

it("other tabs see nothing of it", async () => {
  const browser = new Browser();
  const clients = [await browser.tab().open(), await browser.tab().open()];
  const seen = clients.map(watch);
  const [, follower] = clients;
  const sent = follower?.sendMessage(hello);
  await browser.clock.advance(10);
  const { server } = browser;
  const { id } = server.run;
  server.upgradeTime = 100;
  server.drain(server.socket);
  await browser.clock.advance(50);
  server.say(id, "a");
  const late = follower?.sendMessage({ type: "user_message", payload: { content: "late" } });
  await browser.clock.advance(100);
  server.say(id, "b");
  server.end(id);
  await browser.clock.advance(10);
  expect([await sent, await late]).toEqual([true, true]);
  expect(server.contents).toEqual(["hello", "late"]);
  expect(follower?.getSnapshot().runs[0]).toMatchObject({ text: "ab", status: "completed" });
  expect(seen.map(({ statuses }) => [...statuses])).toEqual([["CONNECTED"], ["CONNECTED"]]);
  expect(server.sockets).toHaveLength(2);
});
