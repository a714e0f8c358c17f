/** Rooms of a tab: joined once, joined again after a lost line, and never silent about a loss. */

import { describe, expect, it } from "vitest";
import { roomKey, type NetraClient, type RoomState, type ServerMessage } from "../../src/index.js";
import { Browser } from "../support/browser.js";
import { contentOf } from "../support/rooms.js";
import { connected } from "../support/connected.js";
import { tokenFor } from "../support/server.js";

const NEWS = roomKey({ kind: "room", room: "news", history: false });

const stateOf = (client: NetraClient, key = NEWS): RoomState => {
  const state = client.getSnapshot().rooms.get(key);
  if (state === undefined) throw new Error("the room is not joined");
  return state;
};

/** The contents of the events, and the gaps, in order. */
const seen = (client: NetraClient, key = NEWS): string[] =>
  stateOf(client, key).items.map((item) =>
    item.kind === "gap" ? `${item.from}-${item.to} missing` : contentOf(item.payload),
  );

describe("a room", () => {
  it("is joined, has the events from now on in order, and is left a second after the last use", async () => {
    const { browser, client } = await connected();
    const { rooms } = browser.server;
    rooms.say("news", "before");
    const first = client.joinRoom("news");
    const second = client.joinRoom("news");
    expect(stateOf(client).status).toBe("joining");
    await browser.clock.advance(10);
    expect(stateOf(client)).toMatchObject({ status: "joined", room: "news", offset: 1, items: [] });
    rooms.say("news", "one");
    rooms.say("news", "two");
    await browser.clock.advance(10);
    expect(seen(client)).toEqual(["one", "two"]);
    expect(stateOf(client).items[0]).toMatchObject({
      kind: "event",
      type: "room_message",
      payload: { user_id: "bob", content: "one" },
      offset: 2,
    });
    first();
    first();
    await browser.clock.advance(2_000);
    expect(browser.server.of("leave_room")).toEqual([]);
    second();
    await browser.clock.advance(999);
    expect(browser.server.of("leave_room")).toEqual([]);
    await browser.clock.advance(1);
    expect(browser.server.of("leave_room")).toHaveLength(1);
    expect(browser.server.of("join_room")).toHaveLength(1);
    expect(client.getSnapshot().rooms.size).toBe(0);
    expect(rooms.members("news")).toHaveLength(0);
  });

  it("is not left by a component that is mounted again within a second", async () => {
    const { browser, client } = await connected();
    client.joinRoom("news")();
    await browser.clock.advance(500);
    client.joinRoom("news");
    await browser.clock.advance(5_000);
    expect(browser.server.received.filter(({ type }) => /room/.test(type))).toHaveLength(1);
  });

  it("may be joined before there is a connection", async () => {
    const browser = new Browser();
    const tab = browser.tab();
    const client = await tab.open();
    client.disconnect();
    client.joinRoom("news");
    await browser.clock.advance(10);
    expect(browser.server.of("join_room")).toEqual([]);
    client.connect();
    await browser.clock.advance(10);
    expect(stateOf(client).status).toBe("joined");
  });

  it("begins with its history if that is asked for, also later", async () => {
    const { browser, client } = await connected();
    const { rooms } = browser.server;
    for (const word of ["one", "two"]) rooms.say("news", word);
    const handled: number[] = [];
    client.subscribe("room_event", ({ payload }) => handled.push(payload.offset));
    client.joinRoom("news");
    await browser.clock.advance(10);
    rooms.say("news", "three");
    await browser.clock.advance(10);
    expect(seen(client)).toEqual(["three"]);
    client.joinRoom("news", { history: true });
    await browser.clock.advance(10);
    expect(seen(client)).toEqual(["one", "two", "three"]);
    rooms.say("news", "four");
    await browser.clock.advance(10);
    expect(seen(client)).toEqual(["one", "two", "three", "four"]);
    expect(browser.server.of("join_room").map(({ payload }) => payload)).toEqual([
      { room: "news" },
      { room: "news", after: 0 },
    ]);
  });

  it("keeps its newest 1000 events", async () => {
    const { browser, client } = await connected();
    client.joinRoom("news");
    await browser.clock.advance(10);
    for (let n = 1; n <= 1_000; n += 1) browser.server.rooms.say("news", `${n}`);
    expect(seen(client)).toHaveLength(1_000);
    browser.server.rooms.say("news", "1001");
    expect(seen(client)).toHaveLength(1_000);
    expect([seen(client)[0], seen(client).at(-1)]).toEqual(["2", "1001"]);
  });
});

describe("after a lost line", () => {
  const EVENTS = 12;

  it.each(Array.from({ length: EVENTS + 2 }, (_, frames) => frames + 1))(
    "a room goes on without a loss or a repetition: cut after frame %i",
    async (frames) => {
      const { browser, client } = await connected();
      const { rooms } = browser.server;
      const handled: number[] = [];
      client.subscribe("room_event", ({ payload }) => handled.push(payload.offset));
      browser.server.socket.framesLeft = frames;
      client.joinRoom("news");
      await browser.clock.advance(10);
      const begin = stateOf(client).offset ?? 0;
      for (let n = 1; n <= EVENTS; n += 1) {
        rooms.say("news", `${n}`);
        if (n % 4 === 0) await browser.clock.advance(400);
      }
      await browser.clock.advance(60_000);
      rooms.say("news", "last");
      await browser.clock.advance(60_000);
      const numbers = [...Array.from({ length: EVENTS - begin }, (_, n) => `${begin + n + 1}`), "last"];
      expect(seen(client)).toEqual(numbers);
      expect(stateOf(client).losses).toBe(1); // the first join
      expect(handled).toEqual(numbers.map((_, n) => begin + n + 1));
      expect(rooms.members("news")).toHaveLength(1);
    },
  );

  const gaps: [string, (browser: Browser) => void, string[]][] = [
    ["a history that was trimmed", ({ server }) => server.rooms.trim("news", 1), ["1", "2-2 missing", "3"]],
    ["a history that is gone", ({ server }) => server.rooms.trim("news", 0), ["1", "2-3 missing"]],
    ["another epoch", ({ server }) => { server.rooms.restart("news", false); server.rooms.say("news", "1 again"); }, ["1", "1-0 missing", "1 again"]],
  ];
  it.each(gaps)("a gap is an entry: %s", async (_, happens, expected) => {
    const { browser, client } = await connected();
    const { rooms } = browser.server;
    const told: ServerMessage["type"][] = [];
    client.subscribe("*", ({ type }) => /^room_(event|gap)/.test(type) && told.push(type));
    client.joinRoom("news");
    await browser.clock.advance(10);
    rooms.say("news", "1");
    browser.server.socket.drop(1006);
    rooms.say("news", "2");
    rooms.say("news", "3");
    happens(browser);
    await browser.clock.advance(5_000);
    expect(seen(client)).toEqual(expected);
    expect(told).toEqual(expected.map((entry) => (entry.endsWith("missing") ? "room_gap" : "room_event")));
    rooms.say("news", "next");
    expect(seen(client)).toEqual([...expected, "next"]);
  });

  it("a room that was refused is asked for again, and one that the server ended is not", async () => {
    const { browser, client } = await connected();
    const { rooms } = browser.server;
    rooms.refusals.set("secret", { code: "FORBIDDEN" });
    client.joinRoom("secret");
    client.joinRoom("news");
    await browser.clock.advance(10);
    const secret = roomKey({ kind: "room", room: "secret", history: false });
    expect(stateOf(client, secret)).toMatchObject({ status: "refused", error: { code: "FORBIDDEN" } });
    expect(client.getSnapshot().lastError).toBeNull();
    rooms.kick("news");
    expect(stateOf(client).status).toBe("left");
    rooms.refusals.clear();
    browser.server.socket.drop(1006);
    await browser.clock.advance(5_000);
    expect(stateOf(client, secret)).toMatchObject({ status: "joined", error: null });
    expect(stateOf(client).status).toBe("left");
    expect(rooms.members("news")).toHaveLength(0);
    client.joinRoom("news");
    await browser.clock.advance(10);
    expect(stateOf(client).status).toBe("joined");
  });
});

describe("in a room", () => {
  it("lost events are an entry, as are offsets that begin again", async () => {
    const { browser, client } = await connected();
    const { rooms } = browser.server;
    client.joinRoom("news");
    await browser.clock.advance(10);
    rooms.say("news", "1");
    rooms.lose("news", 3);
    rooms.say("news", "5");
    rooms.restart("news", true);
    rooms.say("news", "1 again");
    expect(seen(client)).toEqual(["1", "2-4 missing", "5", "1-0 missing", "1 again"]);
    browser.server.socket.drop(1006);
    rooms.say("news", "2 again");
    await browser.clock.advance(5_000);
    expect(seen(client)).toEqual(["1", "2-4 missing", "5", "1-0 missing", "1 again", "2 again"]);
  });

  it("a new epoch that no frame has announced is a gap", async () => {
    const { browser, client } = await connected();
    const { rooms } = browser.server;
    client.joinRoom("news");
    await browser.clock.advance(10);
    rooms.say("news", "1");
    rooms.restart("news", false);
    rooms.say("news", "1 again");
    expect(seen(client)).toEqual(["1", "1-0 missing", "1 again"]);
  });

  it("a busy server is asked again after its time", async () => {
    const { browser, client } = await connected();
    const { rooms } = browser.server;
    rooms.refusals.set("news", { code: "SERVICE_UNAVAILABLE", retry_after_ms: 700 });
    client.joinRoom("news");
    await browser.clock.advance(10);
    expect(stateOf(client)).toMatchObject({ status: "joining", error: { code: "SERVICE_UNAVAILABLE" } });
    rooms.refusals.clear();
    await browser.clock.advance(600);
    expect(stateOf(client).status).toBe("joining");
    await browser.clock.advance(100);
    expect(stateOf(client)).toMatchObject({ status: "joined", error: null });
  });

  it("a hundred rooms are joined, twenty at a time", async () => {
    const { browser, client } = await connected();
    browser.server.isMute = true;
    for (let n = 0; n < 100; n += 1) client.joinRoom(`room-${n}`);
    await browser.clock.advance(10);
    expect(browser.server.of("join_room")).toHaveLength(20);
    browser.server.isMute = false;
    browser.server.socket.drop(1006);
    await browser.clock.advance(5_000);
    const states = [...client.getSnapshot().rooms.values()];
    expect(states.filter(({ status }) => status === "joined")).toHaveLength(100);
  });

  it("a message is published once, under one key, over a lost line and a busy server", async () => {
    const { browser, client } = await connected();
    const { rooms } = browser.server;
    browser.server.socket.framesLeft = 0; // the reply is lost
    const sent = client.publish("news", { x: 1 });
    await browser.clock.advance(10);
    browser.server.socket.drop(1006);
    await browser.clock.advance(5_000);
    expect(await sent).toEqual({ room: "news", offset: 1, status: "duplicate" });
    expect(rooms.room("news").events).toHaveLength(1);
    rooms.busy = { times: 4, code: "RATE_LIMIT_EXCEEDED", retry_after_ms: 100 };
    const again = client.publish("news", "hello");
    await browser.clock.advance(60_000);
    expect(await again).toMatchObject({ offset: 2, status: "accepted" });
    const keys = browser.server.of("room_message").map(({ correlation_id }) => correlation_id);
    expect(new Set(keys).size).toBe(2);
    expect(keys).toHaveLength(7);
  });

  it("a message that is refused five times, or finally, or invalid, rejects", async () => {
    const { browser, client } = await connected();
    const { rooms } = browser.server;
    rooms.busy = { times: 5, code: "RATE_LIMIT_EXCEEDED", retry_after_ms: 100 };
    const late = client.publish("news", "hello");
    void late.catch(() => undefined);
    await browser.clock.advance(60_000);
    await expect(late).rejects.toMatchObject({ body: { code: "RATE_LIMIT_EXCEEDED" } });
    rooms.busy = { times: 1, code: "FORBIDDEN", retry_after_ms: 0 };
    const forbidden = client.publish("news", "hello");
    void forbidden.catch(() => undefined);
    await browser.clock.advance(10);
    await expect(forbidden).rejects.toMatchObject({ body: { code: "FORBIDDEN" } });
    await expect(client.publish("no room", "x")).rejects.toMatchObject({ body: { code: "VALIDATION_ERROR" } });
    rooms.busy = { times: 1, code: "RATE_LIMIT_EXCEEDED", retry_after_ms: 10_000 };
    const closed = client.publish("news", "hello");
    void closed.catch(() => undefined);
    await browser.clock.advance(10);
    client.close();
    await expect(closed).rejects.toMatchObject({ body: { code: "CLOSED" } });
    expect(client.joinRoom("news")()).toBeUndefined();
    expect(client.getSnapshot().rooms.size).toBe(0);
  });

  it("a message is not sent again as another user", async () => {
    const { browser, client, tab } = await connected();
    browser.server.rooms.busy = { times: 1, code: "RATE_LIMIT_EXCEEDED", retry_after_ms: 10_000 };
    const sent = client.publish("news", "of alice").catch((error: unknown) => error);
    await browser.clock.advance(10);
    tab.token = tokenFor("bob");
    client.forceReconnect();
    await browser.clock.advance(60_000);
    expect(await sent).toMatchObject({ body: { code: "USER_CHANGED" } });
    expect(browser.server.of("room_message")).toHaveLength(1);
    const next = client.publish("news", "of bob");
    await browser.clock.advance(10);
    expect(await next).toMatchObject({ offset: 1 });
  });

  it("sendMessage publishes too, and does not join", async () => {
    const { browser, client } = await connected();
    const payload = { room: "news", content: "hello" };
    const sent = client.sendMessage({ type: "room_message", payload });
    const refused = client.sendMessage({ type: "join_room", payload: { room: "news" } });
    await browser.clock.advance(10);
    expect([await sent, await refused]).toEqual([true, false]);
    expect(client.getSnapshot().lastError?.error).toContain("join_room");
    browser.server.rooms.busy = { times: 1, code: "FORBIDDEN", retry_after_ms: 0 };
    const forbidden = client.sendMessage({ type: "room_message", payload });
    await browser.clock.advance(10);
    expect(await forbidden).toBe(false);
  });

  it("presence is asked for, and its changes are messages", async () => {
    const { browser, client } = await connected();
    const changes: string[] = [];
    client.subscribe("presence_changed", ({ payload }) => changes.push(`${payload.user_id} ${payload.change}`));
    const asked = client.getPresence("news");
    await browser.clock.advance(10);
    expect((await asked).members).toEqual([{ user_id: "bob", connections: 2 }]);
    browser.server.control(browser.server.socket, "presence_changed", { room: "news", user_id: "bob", change: "left" });
    expect(changes).toEqual(["bob left"]);
  });
});
