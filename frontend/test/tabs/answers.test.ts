/** Tabs of one user show the same questions, and any of them may answer. */

import { describe, expect, it } from "vitest";
import type { NetraClient } from "../../src/index.js";
import { Browser, type Tab } from "../support/browser.js";
import { hello } from "../support/connected.js";

const THREAD = { threadId: "shared-thread" };

async function twoTabs(): Promise<{ browser: Browser; tabs: [Tab, Tab]; clients: [NetraClient, NetraClient]; id: string }> {
  const browser = new Browser();
  const tabs: [Tab, Tab] = [browser.tab(), browser.tab()];
  const clients: [NetraClient, NetraClient] = [await tabs[0].open(THREAD), await tabs[1].open(THREAD)];
  void clients[1].sendMessage(hello);
  await browser.clock.advance(10);
  const id = browser.server.ask(browser.server.run.id);
  await browser.clock.advance(10);
  return { browser, tabs, clients, id };
}

const outcomes = (clients: readonly NetraClient[]): unknown[] =>
  clients.map((client) => client.getSnapshot().runs[0]?.questions.map(({ outcome }) => outcome));

const result = (promise: Promise<string>): Promise<string> =>
  promise.catch((error: unknown) => (error as { body: { code: string } }).body.code);

describe("two tabs", () => {
  it.each([
    ["the leader", 0],
    ["the follower", 1],
  ])("show the same question, and %s answers it", async (_, index) => {
    const { browser, clients, id } = await twoTabs();
    expect(clients.map((client) => client.getSnapshot().role)).toEqual(["leader", "follower"]);
    expect(outcomes(clients)).toEqual([[null], [null]]);
    const answered = clients[index]?.answer(id, { approve: true });
    await browser.clock.advance(10);
    expect(await answered).toBe("approved");
    expect(outcomes(clients)).toEqual([["approved"], ["approved"]]);
  });

  it.each([
    ["the leader", [0, 1]],
    ["the follower", [1, 0]],
  ])("race: %s wins, and the other one is told", async (_, [first = 0, second = 0]) => {
    const { browser, clients, id } = await twoTabs();
    const won = clients[first]?.answer(id, { approve: true });
    await Promise.resolve(); // the follower's answer reaches the leader
    const lost = clients[second]?.answer(id, { approve: false }) ?? Promise.resolve("");
    const told = result(lost);
    await browser.clock.advance(10);
    expect([await won, await told]).toEqual(["approved", "ANSWER_REJECTED"]);
    expect(browser.server.of("answer")).toHaveLength(2);
    expect(outcomes(clients)).toEqual([["approved"], ["approved"]]);
    expect(clients.map((client) => client.getSnapshot().lastError)).toEqual([null, null]);
  });

  it("answer once, if the leader closes in between and the answer is lost", async () => {
    const { browser, tabs, clients, id } = await twoTabs();
    browser.server.isMute = true;
    const answered = result(clients[1].answer(id, { approve: true }));
    await browser.clock.advance(10);
    expect(browser.server.of("answer")).toHaveLength(1);
    browser.server.isMute = false;
    tabs[0].unload();
    await browser.clock.advance(100);
    expect(clients[1].getSnapshot().role).toBe("leader");
    expect(await answered).toBe("approved");
    expect(browser.server.of("answer")).toHaveLength(2);
  });

  it("answer once, if the leader closes in between and the answer has arrived", async () => {
    const { browser, tabs, clients, id } = await twoTabs();
    browser.server.socket.framesLeft = 0;
    const answered = result(clients[1].answer(id, { approve: true }));
    await browser.clock.advance(10);
    tabs[0].unload();
    await browser.clock.advance(100);
    expect(await answered).toBe("approved");
    expect(browser.server.of("answer")).toHaveLength(1);
  });

  it("settle an answer whose outcome a tab missed while it was suspended", async () => {
    const { browser, clients, id } = await twoTabs();
    browser.server.isMute = true;
    const answered = result(clients[1].answer(id, { approve: true }));
    await browser.clock.advance(10);
    browser.losesMessages = true;
    browser.server.close(id, "approved", { user_id: "alice" });
    await browser.clock.advance(10);
    expect(outcomes(clients)).toEqual([["approved"], [null]]);
    browser.losesMessages = false;
    browser.server.say(browser.server.run.id, "more"); // shows the follower that it missed something
    await browser.clock.advance(10);
    expect(await answered).toBe("approved");
    expect(outcomes(clients)).toEqual([["approved"], ["approved"]]);
  });
});
