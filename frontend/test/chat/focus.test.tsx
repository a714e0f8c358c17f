/** Where the focus goes on the chat page: after each button, in dialogs, and at the page's shortcuts. */

import { act } from "react";
import { afterEach, beforeEach, expect, it, vi } from "vitest";
import { Browser } from "../support/browser.js";
import { openPage, type ChatPage } from "../support/chat-page.js";
import { stubLayers } from "../support/layers.js";

// The page's own packages are not installed for these tests.
vi.mock("../../pages/chat/markdown/Markdown.tsx", () => ({ Markdown: ({ text }: { text: string }) => text }));
stubLayers();

let browser: Browser;
let page: ChatPage;

const nameOf = (element: Element | null): string => element?.getAttribute("aria-label") ?? element?.textContent ?? "";
const focused = (): string => nameOf(document.activeElement);
const send = (text: string): Promise<void> =>
  page.type("[aria-label=Message]", text).then(() => page.click("Send"));
const stopped = (): unknown[] => browser.server.of("stop_agent");
/** Answers, an error, a question, a rejected message, conversations and more of them. */
async function fill(): Promise<void> {
  const { server } = browser;
  server.keepsHistory = true;
  for (let index = 0; index < 60; index += 1) {
    server.rooms.list(`t${index}`, { title: `About ${index}`, updated_at: browser.clock.now / 1000 - index - 10 });
  }
  page = await openPage(browser);
  await send("first");
  await act(async () => {
    server.say(server.run.id, "answer");
    server.end(server.run.id);
  });
  await send("second");
  await act(async () => {
    server.say(server.run.id, "failed");
    server.end(server.run.id, "interrupted");
  });
  await send("third");
  await act(async () => {
    server.ask(server.run.id, { prompt: "Delete it?", tool_name: "delete", arguments: {}, expires_at: Date.now() / 1000 + 90 });
  });
  server.rejection = { code: "VALIDATION_ERROR" };
  await send("rejected");
  server.rejection = null;
  await act(async () => server.error(server.socket, "SERVICE_UNAVAILABLE", undefined));
  await page.pass(3_000);
}

beforeEach(() => {
  browser = new Browser();
  localStorage.clear();
  location.hash = "#/t";
});

afterEach(async () => {
  await page.close();
  vi.unstubAllGlobals();
});

it("stays on the page after each of its buttons", async () => {
  await fill();
  const names = new Set(page.all("button:enabled").map(nameOf).filter((name) => !/About (?!1$)/.test(name)));
  for (const name of ["Approve", "Dismiss", "Show more", "Stop", "Rename: About 1", "Delete: About 1"]) {
    expect(names).toContain(name);
  }
  const lost: string[] = [];
  for (const name of names) {
    if (!page.has(name)) {
      await page.close();
      browser = new Browser();
      location.hash = "#/t";
      localStorage.clear();
      await fill();
    }
    await page.click(name);
    await page.pass(400);
    if (document.activeElement === document.body) lost.push(name);
  }
  expect(lost).toEqual([]);
}, 60_000);

it("goes to the nearest element where the focused one is removed or disabled", async () => {
  await fill();
  const last = page.all(".threads li a").at(-1);
  last?.focus();
  browser.server.rooms.listed.delete("t48");
  await act(async () => browser.server.rooms.changed("t48", "deleted"));
  expect(document.activeElement?.closest(".threads")).not.toBeNull();
  const button = page.find("Sign out") as HTMLButtonElement;
  button.focus();
  button.disabled = true;
  button.blur(); // as a browser does
  await page.pass();
  expect(document.activeElement?.closest(".sidebar-end")).not.toBeNull();
});

it("leaves the focus where the user puts it", async () => {
  await fill();
  page.find("Sign out").focus();
  await act(async () => {
    page.find(".top").dispatchEvent(new Event("pointerdown", { bubbles: true }));
    page.find("Sign out").blur();
    page.find("Sign out").remove();
  });
  await page.pass();
  expect(document.activeElement).toBe(document.body);
});

it("returns from the help to where it was", async () => {
  page = await openPage(browser);
  page.find("Sign out").focus();
  await page.press("?", { shiftKey: true });
  expect([page.find(".help-dialog").hasAttribute("open"), focused()]).toEqual([true, "Close"]);
  await page.press("n", { altKey: true });
  expect(location.hash).toBe("#/t");
  await page.click("Close");
  expect([page.find(".help-dialog").hasAttribute("open"), focused()]).toEqual([false, "Sign out"]);
  await page.press("/", { ctrlKey: true });
  await page.press("/", { ctrlKey: true });
  expect(page.find(".help-dialog").hasAttribute("open")).toBe(false);
  await page.click("Keyboard shortcuts");
  await act(async () => page.find(".help-dialog").click());
  expect([page.find(".help-dialog").hasAttribute("open"), focused()]).toEqual([false, "Keyboard shortcuts"]);
});

it("follows the shortcuts", async () => {
  const copied: string[] = [];
  Object.defineProperty(navigator, "clipboard", {
    configurable: true,
    value: { writeText: (text: string) => Promise.resolve(void copied.push(text)) },
  });
  page = await openPage(browser);
  await page.press("a", { altKey: true });
  await send("first");
  await act(async () => browser.server.say(browser.server.run.id, "the answer"));
  await page.press("a", { altKey: true });
  expect(copied).toEqual(["the answer"]);
  await page.press("Escape");
  expect(stopped()).toHaveLength(1);
  page.find("Sign out").focus();
  await page.press("o", { altKey: true });
  expect([page.find(".layout").className, focused()]).toEqual(["layout wide-open", "Open conversations"]);
  await page.click("Open conversations");
  expect([page.find(".layout").className, focused()]).toEqual(["layout", "Close conversations"]);
  await page.click("Close conversations");
  await page.press("k", { ctrlKey: true });
  expect([page.find(".layout").className, focused()]).toEqual(["layout", "Search conversations"]);
  await page.press("n", { altKey: true });
  expect(location.hash).toMatch(/^#\/t-/);
  expect(focused()).toBe("Message");
});

it("keeps the conversations hidden over a reload", async () => {
  page = await openPage(browser);
  await page.click("Close conversations");
  await page.close();
  page = await openPage(browser);
  expect(page.find(".layout").className).toBe("layout wide-open");
  expect(focused()).toBe("Message");
});
