/** The box for a message: sizes, drafts, input methods and phones. */

import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { ChatPage, stubMedia } from "../support/chat.js";

vi.mock("../../pages/chat/markdown/Markdown.tsx", () => ({ Markdown: ({ text }: { text: string }) => text }));

let page: ChatPage;
const contents = (): string[] => page.browser.server.contents;

beforeEach(async () => {
  localStorage.clear();
  page = new ChatPage();
  await page.show();
});

afterEach(() => page.close());

describe("a message that is too long", () => {
  const limit = (): number => page.browser.server.limits.max_message_size;

  it("stays in the box, with the number of characters that are too many", async () => {
    await page.type("é".repeat(limit()));
    await page.press("Enter");
    expect(contents()).toEqual([]);
    expect(page.box.value).toHaveLength(limit());
    const fault = page.all("#composer-fault")[0];
    const over = Number(/too long by ([\d,]+) characters/.exec(fault?.textContent ?? "")?.[1]?.replace(",", ""));
    expect(page.box.getAttribute("aria-describedby")).toContain("composer-fault");
    expect(page.texts(".message")).toEqual([]);

    await page.type("é".repeat(limit() - over + 1));
    expect(page.texts("#composer-fault")[0]).toContain("too long by 1 character.");
    await page.press("Enter");
    expect(contents()).toEqual([]);
    await page.type("é".repeat(limit() - over));
    expect(page.texts("#composer-fault")).toEqual([]);
    await page.press("Enter");
    expect(contents()).toEqual(["é".repeat(limit() - over)]);
    expect(page.box.value).toBe("");
  });

  it("goes back into the box if the server refuses it, and survives a reload", async () => {
    page.browser.server.rejection = { code: "MESSAGE_TOO_LARGE" };
    await page.say("much too long");
    expect(page.texts(".problem")[0]).toContain("Not sent. This message is too long.");
    expect(page.has("Send again")).toBe(false);
    await page.close();
    page = new ChatPage();
    await page.show();
    expect(page.texts(".unsent .quoted")).toEqual(["much too long"]);
    await page.type("another text");
    await page.click("Edit");
    expect(page.box.value).toBe("much too long\n\nanother text");
    expect(page.texts(".unsent")).toEqual([]);
  });
});

describe("a message that the server refuses", () => {
  it("is sent again, taken back or discarded, and is then shown once", async () => {
    page.browser.server.rejection = { code: "BUDGET_EXCEEDED" };
    await page.say("first");
    expect(page.texts(".problem-text > p")).toEqual([
      "Not sent. Your budget for this agent is used up today. Try again tomorrow, or ask an administrator.",
    ]);
    expect(page.texts(".details > p")).toEqual(["BUDGET_EXCEEDED: This is BUDGET_EXCEEDED. Help."]);
    await page.click("Edit");
    expect(page.box.value).toBe("first");
    expect(page.texts(".message")).toEqual([]);
    await page.press("Enter");
    page.browser.server.rejection = null;
    await page.click("Send again");
    expect(page.texts(".bubble")).toEqual(["first"]);
    expect(contents()).toEqual(["first", "first", "first"]);
    page.browser.server.rejection = { code: "VALIDATION_ERROR" };
    await page.say("second");
    await page.click("Discard");
    expect(page.texts(".bubble")).toEqual(["first"]);
    expect(page.texts(".unsent")).toEqual([]);
  });
});

describe("a draft", () => {
  it("is one for each thread and user, and survives a reload", async () => {
    await page.type("here");
    await page.show("other");
    expect(page.box.value).toBe("");
    await page.type("there");
    await page.show("t");
    expect(page.box.value).toBe("here");
    await page.close();
    page = new ChatPage();
    await page.show("other");
    expect(page.box.value).toBe("there");
    await page.close();
    page = new ChatPage();
    await page.show("other", "bob");
    expect(page.box.value).toBe("");
  });
});

describe("Enter of an input method", () => {
  it.each([
    ["while it composes", { isComposing: true }],
    ["with the key code of a processed key", { keyCode: 229 }],
    ["in Safari, behind the end of the composition", { keyCode: 229, isComposing: false }],
  ])("does not send %s", async (_, init) => {
    await page.type("かな");
    page.box.dispatchEvent(new CompositionEvent("compositionend", { data: "かな", bubbles: true }));
    expect(await page.press("Enter", init)).toBe(false);
    expect(contents()).toEqual([]);
    expect(await page.press("Enter", { keyCode: 13 })).toBe(true);
    expect(contents()).toEqual(["かな"]);
  });

  it("does not save an edit, and its Escape does not discard one", async () => {
    await page.answered("hello", "hi");
    await page.click("Edit message");
    const area = page.all<HTMLTextAreaElement>(".edit textarea")[0] ?? page.box;
    await page.type("better", area);
    for (const key of ["Enter", "Escape"]) await page.press(key, { keyCode: 229 }, area);
    expect(area.isConnected).toBe(true);
    expect(contents()).toEqual(["hello"]);
  });

  it("does not stop an answer with its Escape", async () => {
    await page.say("hello");
    for (const init of [{ isComposing: true }, { keyCode: 229 }]) await page.press("Escape", init);
    expect(page.browser.server.of("stop_agent")).toEqual([]);
    await page.press("Escape");
    expect(page.browser.server.of("stop_agent")).toHaveLength(1);
  });
});

describe("a keyboard", () => {
  it("sends with Enter, and begins a line with Shift and Enter", async () => {
    expect(page.box.getAttribute("enterkeyhint")).toBe("send");
    expect(page.texts(".keys")).toEqual(["Enter sends, Shift+Enter begins a new line"]);
    await page.type("one");
    expect(await page.press("Enter", { shiftKey: true })).toBe(false);
    expect(contents()).toEqual([]);
    await page.press("Enter");
    expect(contents()).toEqual(["one"]);
  });

  it("stops the answer and sends with Ctrl and Enter", async () => {
    await page.say("first");
    expect(page.texts(".keys")).toEqual(["Enter sends after this answer, Esc stops it"]);
    await page.type("second");
    await page.press("Enter", { ctrlKey: true });
    await page.type("third");
    await page.click("Stop the answer and send");
    await page.say("fourth");
    expect(page.browser.server.of("user_message").map(({ payload }) => payload.on_busy)).toEqual([
      undefined,
      "interrupt",
      "interrupt",
      undefined,
    ]);
  });
});

describe("a phone", () => {
  beforeEach(async () => {
    await page.close();
    stubMedia((query) => query.includes("coarse"));
    page = new ChatPage();
    await page.show();
  });

  it("begins a line with Enter, and sends with the button", async () => {
    expect(page.box.getAttribute("enterkeyhint")).toBe("enter");
    expect(page.texts(".keys")).toEqual(["Enter begins a new line, the arrow sends"]);
    expect(document.activeElement).toBe(document.body);
    await page.type("one");
    expect(await page.press("Enter")).toBe(false);
    expect(contents()).toEqual([]);
    await page.click("Send");
    expect(contents()).toEqual(["one"]);
  });
});
