/** Deleting a conversation on the chat page, with the time to undo it. */

import { act } from "react";
import { describe, expect, it, vi } from "vitest";
import { stubLayers } from "../support/layers.js";
import { browser, eachWithOwnPage, focused, links, notes, open, page, SEARCH, wait } from "./list-page.js";

// The page's own packages are not installed for these tests.
vi.mock("../../pages/chat/markdown/Markdown.tsx", () => ({ Markdown: ({ text }: { text: string }) => text }));
stubLayers();
eachWithOwnPage();

const STORED = "netra.deleting.alice";
const deleted = (): unknown[] => browser.server.of("delete_thread").map(({ payload }) => payload);

describe("deleting", () => {
  const stored = (): { thread: string; due: number; tab: string }[] =>
    JSON.parse(localStorage.getItem(STORED) ?? "[]") as { thread: string; due: number; tab: string }[];

  it("hides at once, can be undone, and happens on the server after seven seconds", async () => {
    await open("one", "two", "three");
    await page.click("Delete: About two");
    expect([links(), focused()]).toEqual([["About one", "About three"], "About three"]);
    expect(page.find(".toast").textContent).toBe("Deleted: About twoUndo");
    await wait(6_990);
    await page.click("Undo deleting: About two");
    await wait(60_000);
    expect(links()).toEqual(["About one", "About two", "About three"]);
    expect(deleted()).toEqual([]);

    page.find("About three").focus();
    await page.press("Delete");
    expect(focused()).toBe("About two");
    await wait(6_990);
    expect(deleted()).toEqual([]);
    await wait(10);
    expect(deleted()).toEqual([{ thread_id: "three" }]);
    expect([links(), page.all(".toast"), stored()]).toEqual([["About one", "About two"], [], []]);
  });

  it("waits while the pointer or the focus is on its message", async () => {
    await open("one");
    await page.click("Delete: About one");
    await act(async () => page.find(".toast button").focus());
    await wait(30_000);
    expect(deleted()).toEqual([]);
    await act(async () => page.find(SEARCH).focus());
    await wait(7_000);
    expect(deleted()).toHaveLength(1);
  });

  it("of the open conversation opens a new one, and undoing opens it again", async () => {
    await open("one");
    await act(async () => void (location.hash = "#/one"));
    await act(async () => void dispatchEvent(new HashChangeEvent("hashchange")));
    await page.click("Delete: About one");
    await act(async () => void dispatchEvent(new HashChangeEvent("hashchange")));
    expect(location.hash).toMatch(/^#\/t-/);
    expect(focused()).toBe("Message");
    await page.click("Undo deleting: About one");
    expect(location.hash).toBe("#/one");
  });

  it.each(["hidden", "left"])("is completed when the page is %s", async (way) => {
    await open("one");
    await page.click("Delete: About one");
    if (way === "hidden") await act(async () => void dispatchEvent(new Event("pagehide")));
    else await page.close();
    await browser.clock.advance(10);
    expect([deleted(), stored()]).toEqual([[{ thread_id: "one" }], []]);
  });

  it("that a closed tab has left is hidden and completed", async () => {
    localStorage.setItem(STORED, JSON.stringify([{ thread: "one", due: Date.now() + 3_000, tab: "closed" }, { odd: 1 }]));
    await open("one", "two");
    expect([links(), page.all(".toast")]).toEqual([["About two"], []]);
    await wait(4_990);
    expect(deleted()).toEqual([]);
    await wait(10);
    expect([deleted(), links(), stored()]).toEqual([[{ thread_id: "one" }], ["About two"], []]);
  });

  it("of another tab is followed, and undone there too", async () => {
    await open("one", "two");
    const other = async (text: string): Promise<void> => {
      localStorage.setItem(STORED, text);
      await act(async () => void dispatchEvent(new StorageEvent("storage", { key: STORED })));
    };
    await other(JSON.stringify([{ thread: "one", due: Date.now() + 7_000, tab: "other" }]));
    expect(links()).toEqual(["About two"]);
    await other("not JSON");
    await wait(60_000);
    expect([links(), deleted()]).toEqual([["About one", "About two"], []]);
  });

  it("waits for the connection", async () => {
    await open("one");
    browser.server.isUp = false;
    await act(async () => browser.server.socket.drop(1006));
    await page.click("Delete: About one");
    await wait(10_000);
    expect(page.all(".toast")).toHaveLength(1);
    browser.server.isUp = true;
    await page.pass(40_000);
    await wait(1);
    expect([deleted(), links()]).toEqual([[{ thread_id: "one" }], []]);
  });

  it("that is refused shows the conversation again, with the reason", async () => {
    await open("one");
    const { rooms } = browser.server;
    const take = rooms.take.bind(rooms);
    let code = "RATE_LIMIT_EXCEEDED";
    rooms.take = (socket, message) => browser.server.error(socket, code, message.correlation_id, { retry_after_ms: 100 });
    await page.click("Delete: About one");
    await wait(7_000);
    expect([links(), page.all(".toast")]).toEqual([[], []]);
    code = "FORBIDDEN";
    await wait(100);
    expect(deleted()).toHaveLength(2);
    expect([links(), notes()]).toEqual([["About one"], ["Not deleted. This is FORBIDDEN."]]);
    rooms.take = take;
    await page.click("Delete: About one");
    await wait(7_000);
    expect([links(), notes()]).toEqual([[], ["Your conversations are listed here."]]);
  });

  it("gives up after five times that the server was busy", async () => {
    await open("one");
    browser.server.rooms.take = (socket, message) => browser.server.error(socket, "SERVICE_UNAVAILABLE", message.correlation_id);
    await page.click("Delete: About one");
    await wait(7_000);
    for (let times = 0; times < 5; times += 1) await wait(5_000);
    expect(deleted()).toHaveLength(5);
    expect(notes()).toEqual(["Not deleted. This is SERVICE_UNAVAILABLE."]);
  });

  it("works without storage", async () => {
    await open("one");
    vi.spyOn(Storage.prototype, "setItem").mockImplementation(() => {
      throw new Error("full");
    });
    await page.click("Delete: About one");
    expect(links()).toEqual([]);
    await wait(7_000);
    vi.restoreAllMocks();
    expect(deleted()).toHaveLength(1);
  });
});
