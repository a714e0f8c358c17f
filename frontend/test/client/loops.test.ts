/** A server that answers each message in the worst way drives no loop: messages are counted in virtual time. */

import { describe, expect, it } from "vitest";
import type { ClientMessage } from "../../src/index.js";
import { Browser, type Tab } from "../support/browser.js";
import { connected, hello } from "../support/connected.js";
import { tokenFor } from "../support/server.js";
import type { FakeSocket } from "../support/socket.js";

const MINUTE = 60_000;

/** The most messages of a type that the server received within any second, and in all. */
function load(browser: Browser, type: ClientMessage["type"]): { second: number; all: number } {
  const { received, times: all } = browser.server;
  const times = all.filter((_, n) => received[n]?.type === type);
  const within = times.map((from) => times.filter((at) => at >= from && at < from + 1_000).length);
  return { second: Math.max(0, ...within), all: times.length };
}

/** Rejects each message of some types at once, and asks for no delay. */
function rejecting({ server }: Browser, code: string, types: readonly string[], more: object = { retry_after_ms: 0 }): void {
  server.intercept = (socket: FakeSocket, message: ClientMessage): boolean => {
    if (!types.includes(message.type)) return false;
    server.error(socket, code, message.correlation_id, more);
    return true;
  };
}

const TEMPORARY = ["RATE_LIMIT_EXCEEDED", "QUEUE_FULL", "SERVICE_UNAVAILABLE", "SERVER_DRAINING"];
const DELAYS: readonly object[] = [{}, { retry_after_ms: 0 }, { retry_after_ms: -1_000 }];
const CASES = TEMPORARY.flatMap((code) => DELAYS.map((more) => [code, more] as const));

describe("a rejection for now", () => {
  it.each(CASES)("%s %j of a message", async (code, more) => {
    const { browser, client } = await connected();
    rejecting(browser, code, ["user_message"], more);
    void client.sendMessage(hello);
    await browser.clock.advance(MINUTE);
    expect(load(browser, "user_message").all).toBeLessThanOrEqual(9);
    expect(load(browser, "user_message").second).toBeLessThanOrEqual(2);
  });

  it.each(CASES)("%s %j of a message to a room", async (code, more) => {
    const { browser, client } = await connected();
    rejecting(browser, code, ["room_message"], more);
    void client.publish("news", "hello").catch(() => undefined);
    await browser.clock.advance(MINUTE);
    expect(load(browser, "room_message").all).toBeLessThanOrEqual(5);
  });

  it.each(CASES)("%s %j of a join", async (code, more) => {
    const { browser, client } = await connected();
    rejecting(browser, code, ["join_room", "watch_thread"], more);
    client.joinRoom("news");
    client.watchThread("main");
    await browser.clock.advance(MINUTE);
    expect(load(browser, "join_room").all).toBeLessThanOrEqual(9);
    expect(load(browser, "watch_thread").all).toBeLessThanOrEqual(9);
  });

  it.each(CASES)("%s %j of the history of a thread and of the list of threads", async (code, more) => {
    const { browser, client } = await connected();
    rejecting(browser, code, ["get_thread_history", "list_threads"], more);
    client.followThreads();
    client.openThread("main");
    await browser.clock.advance(MINUTE);
    expect(load(browser, "get_thread_history").all).toBeLessThanOrEqual(4);
    expect(load(browser, "list_threads").all).toBeLessThanOrEqual(9);
  });

  it.each(CASES)("%s %j of an answer and of a stop", async (code, more) => {
    const { browser, client } = await connected();
    await client.sendMessage(hello);
    const question = browser.server.ask(browser.server.run.id);
    rejecting(browser, code, ["answer", "stop_agent"], more);
    void client.answer(question, { approve: true }).catch(() => undefined);
    void client.stopRun(browser.server.run.id);
    await browser.clock.advance(MINUTE);
    expect(browser.server.of("answer")).toHaveLength(1);
    expect(browser.server.of("stop_agent")).toHaveLength(1);
  });

  it("of an answer that was sent twice", async () => {
    const { browser, client } = await connected();
    await client.sendMessage(hello);
    const question = browser.server.ask(browser.server.run.id);
    browser.server.intercept = (_, { type }) => type === "answer";
    void client.answer(question, { approve: true }).catch(() => undefined);
    await browser.clock.advance(10);
    browser.server.socket.drop(1006);
    await browser.clock.advance(2_000);
    rejecting(browser, "ANSWER_REJECTED", ["answer"]);
    await browser.clock.advance(MINUTE);
    expect(browser.server.of("answer")).toHaveLength(2);
    expect(load(browser, "get_thread_history").all).toBeLessThanOrEqual(3);
  });
});

describe("an answer that brings the client to ask again", () => {
  it.each(["watch_thread", "join_room"] as const)("a loss after each %s", async (type) => {
    const { browser, client } = await connected();
    const { server } = browser;
    server.threads.set("main", []);
    let offset = 0;
    server.intercept = (socket, message) => {
      if (message.type !== type) return false;
      const room = message.type === "join_room" ? message.payload.room : "thread:x";
      const runs = message.type === "watch_thread" ? { runs: [] } : {};
      const id = message.correlation_id;
      server.control(socket, "room_joined", { room, epoch: "e", offset, verdict: "gap", replayed: 0, ...runs }, id);
      server.control(socket, "room_gap", { room, from: offset + 1, to: offset + 5 });
      offset += 5;
      return true;
    };
    if (type === "join_room") client.joinRoom("news");
    else client.watchThread("main");
    await browser.clock.advance(MINUTE);
    expect(load(browser, type).all).toBeLessThanOrEqual(9);
    expect(load(browser, type).second).toBeLessThanOrEqual(4);
    expect(load(browser, "get_thread_history").all).toBeLessThanOrEqual(9);
  });

  it("losses of a watched thread without a request", async () => {
    const { browser, client } = await connected();
    browser.server.threads.set("main", []);
    client.watchThread("main");
    await browser.clock.advance(10);
    for (let n = 0; n < 600; n += 1) {
      browser.server.rooms.lose("thread:main", 1);
      browser.server.rooms.mirror("main", "user_message", { message_id: `m${n}`, run_id: `r${n}`, user_id: "alice", content: "x", replaces: "m" }, null);
      await browser.clock.advance(100);
    }
    expect(load(browser, "get_thread_history").all).toBeLessThanOrEqual(10);
    expect(load(browser, "watch_thread").all).toBeLessThanOrEqual(10);
  });

  it("events and changes of threads while the list is followed", async () => {
    const { browser, client } = await connected();
    client.followThreads();
    await client.sendMessage(hello);
    for (let n = 0; n < 600; n += 1) {
      browser.server.event(browser.server.run.id, "agent_asking", { question_id: `q${n}`, kind: "question", prompt: "?", expires_at: 2e9 });
      browser.server.rooms.changed("main", "updated");
      await browser.clock.advance(100);
    }
    expect(load(browser, "list_threads").all).toBeLessThanOrEqual(61);
    expect(load(browser, "list_threads").second).toBeLessThanOrEqual(3);
  });

  it("tokens of two users in turn at each warning", async () => {
    const { browser, tab } = await connected();
    let n = 0;
    tab.token = () => Promise.resolve(tokenFor((n += 1) % 2 === 0 ? "alice" : "bob"));
    for (let step = 0; step < 600; step += 1) {
      for (const socket of browser.server.open) browser.server.control(socket, "auth_expiring", { expires_at: browser.clock.now / 1000 + 5 });
      await browser.clock.advance(100);
    }
    expect(browser.server.sockets.length).toBeLessThanOrEqual(14);
    expect(tab.tokensGiven).toBeLessThanOrEqual(40);
  });

  it("resets and gaps at each connection, with a thread to read", async () => {
    const { browser, client } = await connected();
    browser.server.threads.set(client.getSnapshot().threadId, []);
    await client.sendMessage(hello);
    for (let step = 0; step < 600; step += 1) {
      browser.server.sessions.clear();
      for (const socket of browser.server.open) socket.drop(1012);
      await browser.clock.advance(100);
    }
    expect(browser.server.sockets.length).toBeLessThanOrEqual(30);
    expect(load(browser, "get_thread_history").all).toBeLessThanOrEqual(browser.server.sockets.length);
  });
});

describe("refusals of a connection", () => {
  const attempts = ({ server }: Browser): number => server.requests.length + server.sockets.length;

  it.each([
    ["401, whatever token is sent", { status: 401 }],
    ["403", { status: 403 }],
    ["429 without Retry-After", { status: 429 }],
    ["503 with Retry-After 0", { status: 503, retryAfter: "0" }],
    ["200 without a ticket", { status: 200, body: "{}" }],
  ])("%s", async (_, answer) => {
    const browser = new Browser();
    const tab = browser.tab();
    await tab.open();
    browser.server.answers = Array.from({ length: 1_000 }, () => answer);
    browser.server.socket.drop(1006);
    await browser.clock.advance(MINUTE);
    expect(attempts(browser)).toBeLessThanOrEqual(3 + 18);
    expect(tab.tokensGiven).toBeLessThanOrEqual(1 + 18);
  });

  it.each([1001, 1006, 1011, 1012, 4401, 4408, 4409, 4429])("a close with %d right after each opening", async (code) => {
    const { browser } = await connected();
    for (let step = 0; step < 600; step += 1) {
      for (const socket of browser.server.open) socket.drop(code);
      await browser.clock.advance(100);
    }
    expect(browser.server.sockets.length).toBeLessThanOrEqual(12);
  });

  it("frames out of order at each connection", async () => {
    const { browser } = await connected();
    for (let step = 0; step < 600; step += 1) {
      for (const socket of browser.server.open) socket.deliver({ type: "partial_result", payload: { run_id: "r", content: "x" }, timestamp: 1, seq: 99 });
      await browser.clock.advance(100);
    }
    expect(browser.server.sockets.length).toBeLessThanOrEqual(12);
  });
});

describe("tabs", () => {
  it("of which each has a session of its own do not take it from each other", async () => {
    const browser = new Browser();
    browser.hasLocks = false;
    await Promise.all([browser.tab().open(), browser.tab().open()]);
    await browser.clock.advance(MINUTE);
    expect(browser.server.sockets).toHaveLength(2);
  });

  it("that cannot hear each other take the leadership more and more rarely", async () => {
    const browser = new Browser();
    const tabs: Tab[] = [browser.tab(), browser.tab(), browser.tab()];
    for (const tab of tabs) await tab.open();
    browser.losesMessages = true;
    for (let n = 0; n < 30; n += 1) {
      for (const tab of tabs) tab.page("visible");
      await browser.clock.advance(MINUTE);
    }
    expect(browser.server.sockets.length).toBeLessThanOrEqual(40);
  });

  it("whose tokens are refused try one after the other, once each", async () => {
    const browser = new Browser();
    const tabs = Array.from({ length: 5 }, () => browser.tab());
    browser.server.answers = Array.from({ length: 1_000 }, () => ({ status: 401 }));
    for (const tab of tabs) await tab.open();
    await browser.clock.advance(10 * MINUTE);
    expect(browser.server.requests.length).toBeLessThanOrEqual(5 * 2);
    expect(browser.server.sockets).toHaveLength(0);
  });
});
