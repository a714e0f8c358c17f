/** The chat page with a list of conversations, and a clock that the test moves. */

import { act } from "react";
import { afterEach, beforeEach, vi } from "vitest";
import { Browser } from "../support/browser.js";
import { type ChatPage, openPage } from "../support/chat-page.js";

export const NOW = new Date(2026, 2, 30, 12); // a day after the clocks go forward in many countries
export const SEARCH = "[aria-label='Search conversations']";

export let browser: Browser;
export let page: ChatPage;

export const links = (): string[] => page.all(".threads li > a").map(({ textContent }) => textContent);
export const notes = (): string[] => page.all(".threads .note").map(({ textContent }) => textContent);
export const focused = (): string | null =>
  document.activeElement?.getAttribute("aria-label") ?? document.activeElement?.textContent ?? null;

/** The server lists a conversation. */
export const list = (name: string, time = NOW, more: Parameters<Browser["server"]["rooms"]["list"]>[1] = {}): void =>
  browser.server.rooms.list(name, { title: `About ${name}`, updated_at: time.getTime() / 1000, ...more });

/** The time of the page passes. */
export async function wait(ms: number): Promise<void> {
  await act(async () => void (await vi.advanceTimersByTimeAsync(ms)));
  await page.pass();
}

/** Opens the page of a user with these conversations, the newest first. */
export async function open(...names: string[]): Promise<void> {
  names.forEach((name, index) => list(name, new Date(NOW.getTime() - index * 1000)));
  page = await openPage(browser);
}

/** Gives each test of a file a server and storage of its own, and closes its page. */
export function eachWithOwnPage(): void {
  beforeEach(() => {
    vi.useFakeTimers({ toFake: ["Date", "setTimeout", "clearTimeout"], now: NOW });
    browser = new Browser();
    localStorage.clear();
    location.hash = "#/t";
  });

  afterEach(async () => {
    await page.close();
    vi.useRealTimers();
    vi.unstubAllGlobals();
  });
}
