/** The list of conversations on the chat page: dates, the search, renaming. */

import { act } from "react";
import { describe, expect, it, vi } from "vitest";
import { stubLayers } from "../support/layers.js";
import { browser, eachWithOwnPage, focused, links, list, notes, NOW, open, page, SEARCH, wait } from "./list-page.js";

// The page's own packages are not installed for these tests.
vi.mock("../../pages/chat/markdown/Markdown.tsx", () => ({ Markdown: ({ text }: { text: string }) => text }));
stubLayers();
eachWithOwnPage();

const asked = (type: "list_threads" | "rename_thread"): unknown[] => browser.server.of(type).map(({ payload }) => payload);
const daysAgo = (days: number, hour = 12): Date => new Date(2026, 2, 30 - days, hour);

describe("the dates", () => {
  const groups = (): readonly (readonly (string | null)[])[] =>
    page.all(".threads section").map((section) => [
      section.getAttribute("aria-label"),
      ...[...section.querySelectorAll("a")].map(({ textContent }) => textContent),
    ]);

  it("group the list by local days", async () => {
    list("ahead", new Date(NOW.getTime() + 1000));
    list("today", daysAgo(0, 0));
    list("late", daysAgo(1, 23));
    list("yesterday", daysAgo(1, 0));
    list("two", daysAgo(2, 23));
    list("seven", daysAgo(7, 0));
    list("eight", daysAgo(8, 23));
    list("thirty", daysAgo(30, 0));
    list("february", daysAgo(31, 23));
    list("december", daysAgo(100));
    list("older", daysAgo(900));
    await open();
    expect(groups()).toEqual([
      ["Today", "About ahead", "About today"],
      ["Yesterday", "About late", "About yesterday"],
      ["Previous 7 days", "About two", "About seven"],
      ["Previous 30 days", "About eight", "About thirty"],
      ["February", "About february"],
      ["December 2025", "About december"],
      ["October 2023", "About older"],
    ]);
  });

  it("change at midnight while the page is open", async () => {
    await open("one");
    expect(groups()[0]?.[0]).toBe("Today");
    await wait(12 * 3600_000 - 1);
    expect(groups()[0]?.[0]).toBe("Today");
    await wait(1);
    expect(groups()[0]?.[0]).toBe("Yesterday");
    await wait(24 * 3600_000);
    expect(groups()[0]?.[0]).toBe("Previous 7 days");
    vi.setSystemTime(daysAgo(-9));
    await act(async () => void document.dispatchEvent(new Event("visibilitychange")));
    expect(groups()[0]?.[0]).toBe("Previous 30 days");
  });
});

describe("the list", () => {
  it("has placeholders until it is loaded, and then says that it is empty", async () => {
    browser.server.isMute = true;
    await open();
    expect(page.all(".placeholders span")).toHaveLength(6);
    browser.server.isMute = false;
    await act(async () => browser.server.socket.drop(1006));
    await page.pass(5_000);
    expect(notes()).toEqual(["Your conversations are listed here."]);
  });

  it("says that it is offline, or why it cannot be read", async () => {
    browser.server.isUp = false;
    await open();
    expect(notes()[0]).toMatch(/^You are offline/);
    browser.server.isUp = true;
    browser.server.rooms.take = (socket, message) => browser.server.error(socket, "FORBIDDEN", message.correlation_id);
    await page.pass(40_000);
    expect(notes()).toEqual(["The conversations cannot be listed. This is FORBIDDEN."]);
  });

  it("shows more, and moves the focus to the first that is new", async () => {
    await open(...Array.from({ length: 120 }, (_, index) => `t${index + 1}`));
    expect(links()).toHaveLength(50);
    await page.click("Show more");
    expect(focused()).toBe("About t51");
    await page.click("Show more");
    expect(links()).toHaveLength(120);
    expect(focused()).toBe("About t101");
    expect(page.has("Show more")).toBe(false);
  });

  it("moves with the arrow keys", async () => {
    await open("one", "two", "three");
    page.find(SEARCH).focus();
    const seen = [];
    for (const key of ["ArrowDown", "ArrowDown", "End", "ArrowDown", "ArrowUp", "Home", "ArrowUp"]) {
      await page.press(key);
      seen.push(focused()?.replace("About ", ""));
    }
    expect(seen).toEqual(["one", "two", "three", "three", "two", "one", "Search conversations"]);
  });

  it("has a menu for each conversation where nothing hovers", async () => {
    vi.stubGlobal("matchMedia", (query: string) => ({
      matches: query === "(hover: none)",
      addEventListener: () => undefined,
      removeEventListener: () => undefined,
    }));
    await open("one");
    await page.click("Actions: About one");
    await page.click("Rename: About one");
    expect(focused()).toBe("Title");
  });
});

describe("the search", () => {
  it("asks once for what is typed quickly, and shows what the server finds", async () => {
    await open("one", "two", "three");
    for (const text of ["t", "tw", "two"]) {
      await page.type(SEARCH, text);
      await wait(240);
    }
    expect(asked("list_threads")).toEqual([{}]);
    await wait(10);
    expect(asked("list_threads")).toEqual([{}, { query: "two" }]);
    expect(links()).toEqual(["About two"]);
    expect(page.find(".threads [aria-live]").textContent).toBe("1 conversation found");
    await page.type(SEARCH, "nothing ");
    expect(page.find(".threads").getAttribute("aria-busy")).toBe("true");
    await wait(250);
    expect(notes()).toEqual(["No matches for “nothing”."]);
    await page.click("Clear the search");
    expect([focused(), links().length]).toEqual(["Search conversations", 3]);
  });

  it("sends no request for spaces, and none while offline", async () => {
    await open("one");
    await page.type(SEARCH, "   ");
    await wait(1_000);
    browser.server.isUp = false;
    await act(async () => browser.server.socket.drop(1006));
    await page.type(SEARCH, "one");
    await wait(1_000);
    expect(asked("list_threads")).toEqual([{}]);
    expect(notes()[0]).toMatch(/^You are offline/);
    browser.server.isUp = true;
    await page.pass(40_000);
    await wait(250);
    expect(links()).toEqual(["About one"]);
  });

  it("waits as long as a busy server says, and shows another error", async () => {
    await open("one");
    const { rooms } = browser.server;
    const take = rooms.take.bind(rooms);
    let code = "RATE_LIMIT_EXCEEDED";
    rooms.take = (socket, message) => browser.server.error(socket, code, message.correlation_id, { retry_after_ms: 3_000 });
    await page.type(SEARCH, "one");
    await wait(250);
    expect(asked("list_threads")).toHaveLength(2);
    rooms.take = take;
    await wait(2_990);
    expect(asked("list_threads")).toHaveLength(2);
    await wait(10);
    expect(links()).toEqual(["About one"]);
    code = "FORBIDDEN";
    rooms.take = (socket, message) => browser.server.error(socket, code, message.correlation_id);
    await page.type(SEARCH, "on");
    await wait(250);
    expect(notes()).toEqual(["This is FORBIDDEN."]);
  });

  it("is used by keyboard, and keeps up with other devices", async () => {
    await open("one", "two");
    await page.press("k", { ctrlKey: true });
    expect(focused()).toBe("Search conversations");
    await page.type(SEARCH, "About");
    await wait(250);
    const { rooms } = browser.server;
    rooms.list("two", { title: "Renamed" });
    await act(async () => rooms.changed("two", "renamed"));
    expect(links()).toEqual(["About one", "Renamed"]);
    rooms.listed.delete("two");
    await act(async () => rooms.changed("two", "deleted"));
    expect(links()).toEqual(["About one"]);
    await page.press("Enter");
    await wait(0);
    expect(location.hash).toBe("#/one");
    page.find(SEARCH).focus();
    await page.press("Escape");
    expect((page.find(SEARCH) as HTMLInputElement).value).toBe("");
  });

  it("shows more of what it found", async () => {
    await open(...Array.from({ length: 60 }, (_, index) => `x${index + 1}`), "other");
    await page.type(SEARCH, "x");
    await wait(250);
    expect(links()).toHaveLength(50);
    await page.click("Show more");
    expect(links()).toHaveLength(60);
    expect(asked("list_threads").at(-1)).toEqual({ query: "x", before: "x50" });
  });
});

describe("renaming", () => {
  const edit = (text: string): Promise<void> => page.type("[aria-label=Title]", text);
  const submit = (): Promise<void> => act(async () => (page.find("[aria-label=Title]") as HTMLInputElement).form?.requestSubmit());

  it.each(["button", "F2", "double click"])("begins by %s", async (way) => {
    await open("one");
    const link = page.find("About one");
    link.focus();
    if (way === "button") await page.click("Rename: About one");
    else if (way === "F2") await page.press("F2");
    else await act(async () => void link.dispatchEvent(new MouseEvent("dblclick", { bubbles: true, cancelable: true })));
    await edit(" New  name ");
    await submit();
    await page.pass();
    expect(asked("rename_thread")).toEqual([{ thread_id: "one", title: "New  name" }]);
    expect([links(), focused()]).toEqual([["New  name"], "New  name"]);
  });

  it("is not done at Escape, nor without a change", async () => {
    await open("one");
    for (const [text, key] of [["Other", "Escape"], ["About one", ""], ["  ", ""]] as const) {
      await page.click("Rename: About one");
      await edit(text);
      if (key) await page.press(key);
      else await submit();
      expect(focused()).toBe("About one");
    }
    expect(asked("rename_thread")).toEqual([]);
  });

  it("is not done at an Enter that accepts composed characters", async () => {
    await open("one");
    await page.click("Rename: About one");
    const enter = new KeyboardEvent("keydown", { key: "Enter", isComposing: true, bubbles: true, cancelable: true });
    await act(async () => void page.find("[aria-label=Title]").dispatchEvent(enter));
    expect(enter.defaultPrevented).toBe(true);
    await page.press("Escape", { isComposing: true });
    expect(page.has("[aria-label=Title]")).toBe(true);
  });

  it("is done when the field is left, without taking the focus back", async () => {
    await open("one");
    browser.server.isMute = true; // The new title is shown at once.
    await page.click("Rename: About one");
    await edit("Left");
    await act(async () => page.find(SEARCH).focus());
    expect(asked("rename_thread")).toHaveLength(1);
    expect([links(), focused()]).toEqual([["Left"], "Search conversations"]);
  });

  it("that fails shows the old title and the reason at the conversation", async () => {
    await open("one", "two");
    browser.server.rooms.listed.delete("one");
    await page.click("Rename: About one");
    await edit("New");
    await submit();
    await page.pass();
    expect(links()).toEqual(["About one", "About two"]);
    expect(page.all(".threads li")[0]?.querySelector("[role=alert]")?.textContent).toBe("Not renamed. This is THREAD_NOT_FOUND.");
  });
});

describe("another conversation", () => {
  // The browser's own event of a new address comes later than keys may.
  const boxAfter = (name: string): readonly [former: HTMLElement, now: HTMLElement] => {
    const former = page.find(".composer textarea");
    act(() => page.find(name).click());
    return [former, page.find(".composer textarea")];
  };

  it("has its own box at once", async () => {
    list("one");
    await open();
    for (const name of ["New conversation", "About one"]) {
      const [former, now] = boxAfter(name);
      expect(now).not.toBe(former);
    }
    expect(location.hash).toBe("#/one");
  });
});
