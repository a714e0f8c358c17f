/** The budget of a user on the chat page: a notice at 80 %, and a plain sentence beyond it. */

import { act } from "react";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { ChatPage } from "../support/chat.js";

// The page's own packages are not installed for these tests.
vi.mock("../../pages/chat/markdown/Markdown.tsx", () => ({ Markdown: ({ text }: { text: string }) => text }));

let page: ChatPage;

const warn = async (unit: string, limit: number, used: number): Promise<void> => {
  const { server } = page.browser;
  await act(async () => server.control(server.socket, "usage_warning", { agent_name: "echo", unit, limit, used }));
};

beforeEach(async () => {
  localStorage.clear();
  page = new ChatPage();
  await page.show();
});

afterEach(() => page.close());

describe("a warning", () => {
  it("is shown with its share of the budget, until it is dismissed or a newer one comes", async () => {
    expect(page.texts(".banner")).toEqual([]);
    await warn("tokens", 1000, 809);
    expect(page.texts(".banner")).toEqual(["You have used 80 % of today's budget for the agent echo."]);
    await warn("cost", 0.3, 0.3);
    expect(page.texts(".banner")).toEqual(["Your budget for the agent echo is used up today."]);
    await page.click("Dismiss");
    expect(page.texts(".banner")).toEqual([]);
  });
});

describe("a message beyond the budget", () => {
  it("fails permanently, and shows when the next day begins", async () => {
    const { browser } = page;
    const wait = 3_600_000;
    browser.server.rejection = { code: "BUDGET_EXCEEDED", retry_after_ms: wait };
    await page.say("first");
    const at = new Date(browser.clock.now + wait).toLocaleTimeString([], { timeStyle: "short" });
    expect(page.texts(".problem-text > p")).toEqual([
      `Not sent. Your budget for this agent is used up today. Try again after ${at}, or ask an administrator.`,
    ]);
    browser.server.rejection = null;
    await act(async () => browser.clock.advance(wait + 60_000));
    expect(browser.server.contents).toEqual(["first"]); // It is not sent again by itself.
  });
});
