/** Rooms of several tabs: one membership of the connection that they share, whichever tab leads. */

import { describe, expect, it } from "vitest";
import { roomKey, type NetraClient, type RoomState } from "../../src/index.js";
import { Browser, type Tab } from "../support/browser.js";
import { contentOf } from "../support/rooms.js";
import { tokenFor } from "../support/server.js";

const NEWS = roomKey({ kind: "room", room: "news", history: false });

async function threeTabs(): Promise<{ browser: Browser; tabs: [Tab, Tab, Tab]; clients: [NetraClient, NetraClient, NetraClient] }> {
  const browser = new Browser();
  browser.server.keepsHistory = true;
  const tabs: [Tab, Tab, Tab] = [browser.tab(), browser.tab(), browser.tab()];
  const clients: [NetraClient, NetraClient, NetraClient] = [
    await tabs[0].open({ threadId: "main" }),
    await tabs[1].open({ threadId: "main" }),
    await tabs[2].open({ threadId: "main" }),
  ];
  return { browser, tabs, clients };
}

const stateOf = (client: NetraClient): RoomState | undefined => client.getSnapshot().rooms.get(NEWS);
const seen = (client: NetraClient): string[] =>
  (stateOf(client)?.items ?? []).map((item) =>
    item.kind === "gap" ? `${item.from}-${item.to} missing` : contentOf(item.payload),
  );
const offsets = (client: NetraClient): number[] => {
  const all: number[] = [];
  client.subscribe("room_event", ({ payload }) => all.push(payload.offset));
  return all;
};

describe("the tabs of a user", () => {
  it("join a room once, all have its events, and the last one leaves it", async () => {
    const { browser, clients } = await threeTabs();
    const { server, clock } = browser;
    const handled = clients.map(offsets);
    const ends = clients.map((client) => client.joinRoom("news"));
    await clock.advance(10);
    server.rooms.say("news", "one");
    await clock.advance(10);
    expect(server.of("join_room")).toHaveLength(1);
    for (const client of clients) expect(seen(client)).toEqual(["one"]);
    expect(handled).toEqual([[1], [1], [1]]);
    ends[0]?.();
    ends[1]?.();
    await clock.advance(5_000);
    expect(server.of("leave_room")).toEqual([]);
    server.rooms.say("news", "two");
    await clock.advance(10);
    expect(seen(clients[2])).toEqual(["one", "two"]);
    expect(stateOf(clients[0])).toBeUndefined();
    expect(handled).toEqual([[1], [1], [1, 2]]);
    ends[2]?.();
    await clock.advance(5_000);
    expect(server.of("leave_room")).toHaveLength(1);
    expect(server.rooms.members("news")).toEqual([]);
  });

  it("that join later have the events of the tab that leads", async () => {
    const { browser, clients } = await threeTabs();
    const { server, clock } = browser;
    clients[1].joinRoom("news");
    await clock.advance(10);
    server.rooms.say("news", "one");
    await clock.advance(10);
    clients[2].joinRoom("news");
    await clock.advance(10);
    expect(seen(clients[2])).toEqual(["one"]);
    server.rooms.say("news", "two");
    await clock.advance(10);
    expect(seen(clients[2])).toEqual(["one", "two"]);
    expect(server.of("join_room")).toHaveLength(1);
  });

  it("are told when the server refuses or ends a room, and may ask again", async () => {
    const { browser, clients } = await threeTabs();
    const { server, clock } = browser;
    server.rooms.refusals.set("news", { code: "FORBIDDEN" });
    clients[1].joinRoom("news");
    await clock.advance(10);
    expect(stateOf(clients[1])).toMatchObject({ status: "refused", error: { code: "FORBIDDEN" } });
    server.rooms.refusals.clear();
    clients[2].joinRoom("news");
    await clock.advance(10);
    for (const n of [1, 2] as const) expect(stateOf(clients[n])?.status).toBe("joined");
    server.rooms.kick("news");
    await clock.advance(10);
    for (const n of [1, 2] as const) expect(stateOf(clients[n])?.status).toBe("left");
  });

  it("keep a room over a change of the leader, without a loss or a repetition", async () => {
    const { browser, tabs, clients } = await threeTabs();
    const { server, clock } = browser;
    const handled = offsets(clients[2]);
    for (const client of clients) client.joinRoom("news");
    await clock.advance(10);
    for (let n = 1; n <= 3; n += 1) server.rooms.say("news", `${n}`);
    tabs[0].unload();
    server.rooms.say("news", "4");
    await clock.advance(100);
    server.rooms.say("news", "5");
    await clock.advance(10);
    expect(seen(clients[1])).toEqual(["1", "2", "3", "4", "5"]);
    expect(seen(clients[2])).toEqual(["1", "2", "3", "4", "5"]);
    tabs[1].unload();
    server.rooms.say("news", "6");
    await clock.advance(3_000);
    server.rooms.say("news", "7");
    await clock.advance(10);
    expect(seen(clients[2])).toEqual(["1", "2", "3", "4", "5", "6", "7"]);
    expect(handled).toEqual([1, 2, 3, 4, 5, 6, 7]);
    expect(server.of("join_room").map(({ payload }) => payload.after)).toEqual([undefined, 3, 5]);
    expect(server.rooms.members("news")).toHaveLength(1);
  });

  it("keep a room that only the leader did not want", async () => {
    const { browser, tabs, clients } = await threeTabs();
    const { server, clock } = browser;
    clients[2].joinRoom("news");
    await clock.advance(10);
    server.rooms.say("news", "1");
    await clock.advance(10);
    tabs[0].unload();
    server.rooms.say("news", "2");
    await clock.advance(3_000);
    expect(clients[1].getSnapshot().role).toBe("leader");
    server.rooms.say("news", "3");
    await clock.advance(10);
    expect(seen(clients[2])).toEqual(["1", "2", "3"]);
    expect(stateOf(clients[1])).toBeUndefined();
  });

  it("leave the rooms of a tab that ends without a message", async () => {
    const { browser, tabs, clients } = await threeTabs();
    const { server, clock } = browser;
    clients[1].joinRoom("news");
    await clock.advance(10);
    expect(server.rooms.members("news")).toHaveLength(1);
    tabs[1].suspend();
    tabs[1].unload(); // the browser releases the locks; nothing is posted
    await clock.advance(10);
    expect(server.of("leave_room")).toHaveLength(1);
    expect(server.rooms.members("news")).toEqual([]);
  });

  it("catch up after a time without messages of the leader", async () => {
    const { browser, clients } = await threeTabs();
    const { server, clock } = browser;
    const handled = offsets(clients[1]);
    clients[1].joinRoom("news");
    await clock.advance(10);
    server.rooms.say("news", "1");
    await clock.advance(10);
    browser.losesMessages = true;
    server.rooms.say("news", "2");
    await clock.advance(10);
    browser.losesMessages = false;
    expect(seen(clients[1])).toEqual(["1"]);
    server.rooms.say("news", "3");
    await clock.advance(10);
    expect(seen(clients[1])).toEqual(["1", "2", "3"]);
    expect(handled).toEqual([1, 2, 3]);
  });

  it("watch a thread once, and show a run of another device alike", async () => {
    const { browser, tabs, clients } = await threeTabs();
    const { server, clock } = browser;
    const asking = await new Browser(browser).tab().open({ threadId: "main" });
    clients[0].watchThread("main");
    clients[1].watchThread("main");
    await clock.advance(10);
    void asking.sendMessage({ type: "user_message", payload: { content: "hello" } });
    await clock.advance(10);
    const { id } = server.run;
    server.say(id, "one ");
    await clock.advance(10);
    clients[2].watchThread("main");
    await clock.advance(10);
    server.say(id, "two ");
    await clock.advance(10);
    const shown = (client: NetraClient): string[] => client.getSnapshot().messages.map(({ content }) => content);
    for (const client of clients) expect(shown(client)).toEqual(["hello", "one two "]);
    expect(server.of("watch_thread")).toHaveLength(1);
    tabs[0].unload();
    server.say(id, "three ");
    await clock.advance(3_000);
    server.say(id, "four");
    server.end(id);
    await clock.advance(10);
    for (const client of clients.slice(1)) {
      expect(shown(client)).toEqual(["hello", "one two three four"]);
      expect(client.getSnapshot().runs).toMatchObject([{ status: "completed" }]);
    }
  });

  it("read the history after a time without messages of the leader", async () => {
    const { browser, clients } = await threeTabs();
    const { server, clock } = browser;
    const asking = await new Browser(browser).tab().open({ threadId: "main" });
    clients[1].watchThread("main");
    await clock.advance(10);
    const ask = async (content: string): Promise<void> => {
      void asking.sendMessage({ type: "user_message", payload: { content } });
      await clock.advance(10);
      server.say(server.run.id, `answer to ${content}`);
      server.end(server.run.id);
      await clock.advance(10);
    };
    await ask("first");
    browser.losesMessages = true;
    await ask("second");
    browser.losesMessages = false;
    await ask("third");
    const contents = clients[1].getSnapshot().messages.map(({ content }) => content);
    expect(contents).toEqual(["first", "second", "third"].flatMap((content) => [content, `answer to ${content}`]));
  });

  it("have nothing of a room of the user before", async () => {
    const browser = new Browser();
    const tab = browser.tab();
    const client = await tab.open();
    client.joinRoom("news");
    await browser.clock.advance(10);
    browser.server.rooms.say("news", "for alice");
    expect(seen(client)).toEqual(["for alice"]);
    tab.token = tokenFor("bob");
    client.forceReconnect();
    await browser.clock.advance(10);
    expect(seen(client)).toEqual([]);
    browser.server.rooms.say("news", "for both");
    expect(seen(client)).toEqual(["for both"]);
  });
});
