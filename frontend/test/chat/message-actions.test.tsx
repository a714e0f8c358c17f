/** Editing, regenerating, rating and copying messages, and the choice of an agent. */

import { act } from "react";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import type { ClientMessage } from "../../src/index.js";
import { Browser } from "../support/browser.js";
import { ChatPage } from "../support/chat.js";

vi.mock("../../pages/chat/markdown/Markdown.tsx", () => ({ Markdown: ({ text }: { text: string }) => text }));

interface Shortcuts {
  readonly execute: (command: "edit-last") => boolean;
}
const source = new URL("../../pages/chat/shortcuts.ts", import.meta.url).pathname;
const { execute } = (await import(/* @vite-ignore */ source)) as Shortcuts;

let page: ChatPage;

beforeEach(async () => {
  localStorage.clear();
  page = new ChatPage();
  page.browser.server.agents = [
    { name: "echo", title: "Echo", examples: ["First", "Second"] },
    { name: "wise", title: "The Sage", examples: ["Third"] },
  ];
  await page.show();
});

afterEach(() => page.close());

type Sent = Extract<ClientMessage, { type: "user_message" }>["payload"];
const sent = (): Sent[] => page.browser.server.of("user_message").map(({ payload }) => payload);
const bubbles = (): string[] => page.texts(".bubble");
const editor = (): HTMLTextAreaElement => {
  const [area] = page.all<HTMLTextAreaElement>(".edit textarea");
  if (area === undefined) throw new Error("nothing is edited");
  return area;
};

describe("an edit", () => {
  beforeEach(async () => {
    await page.answered("first", "one");
    await page.answered("second", "two");
  });

  it("replaces the message and its answer once it is confirmed", async () => {
    await page.click("Edit message");
    expect(editor().value).toBe("second");
    expect(document.activeElement).toBe(editor());
    expect(page.texts("#edit-note")).toEqual(["The answer is replaced by a new one."]);
    await page.type("better", editor());
    page.browser.server.isMute = true;
    await page.press("Enter", {}, editor());
    expect(sent().at(-1)).toMatchObject({ content: "better", replaces: "msg-run-5" });
    expect(bubbles()).toEqual(["first", "better"]);
    expect(document.activeElement).toBe(page.box);
    page.browser.server.isMute = false;
    await act(async () => page.browser.server.socket.drop(1006));
    await page.pass(1_000);
    expect(bubbles()).toEqual(["first", "better"]);
    expect(page.texts(".message.agent .parts, .message.agent > div")).not.toContain("two");
  });

  it("shows the old messages again if it is refused", async () => {
    await page.click("Edit message");
    await page.type("worse", editor());
    page.browser.server.rejection = { code: "BUDGET_EXCEEDED" };
    await page.press("Enter", {}, editor());
    expect(bubbles()).toEqual(["first", "second", "worse"]);
    page.browser.server.rejection = null;
    await page.click("Send again");
    expect(sent().at(-1)).toMatchObject({ content: "worse", replaces: "msg-run-5" });
    expect(bubbles()).toEqual(["first", "worse"]);
  });

  it("of an earlier message says that later ones go", async () => {
    const [first] = page.all("button").filter((button) => button.getAttribute("aria-label") === "Edit message");
    await act(async () => first?.click());
    expect(page.texts("#edit-note")).toEqual(["This message and all that follows are replaced."]);
    await page.type("new", editor());
    await act(async () => page.all<HTMLFormElement>(".edit")[0]?.requestSubmit());
    await page.pass();
    expect(bubbles()).toEqual(["new"]);
  });

  it("is discarded with Escape, and is not sent if it is too long or blank", async () => {
    await page.click("Edit message");
    await page.type("x".repeat(20_000), editor());
    await page.press("Enter", {}, editor());
    expect(page.texts("#edit-fault")[0]).toContain("too long by");
    await page.type(" ", editor());
    await page.press("Enter", {}, editor());
    await page.press("Escape", {}, editor());
    expect(bubbles()).toEqual(["first", "second"]);
    expect(sent()).toHaveLength(2);
    expect(document.activeElement).toBe(page.box);
    expect(page.box.value).toBe("");
  });

  it("of the last message is a command", async () => {
    await act(async () => execute("edit-last"));
    expect(editor().value).toBe("second");
  });

  it("keeps its text in the box if the message disappears", async () => {
    await page.click("Edit message");
    await page.type("precious", editor());
    await page.show("other");
    await page.show("t");
    expect(page.box.value).toBe("precious");
  });
});

describe("an edit during a run", () => {
  const edit = async (index: number, text: string): Promise<void> => {
    const button = page.all("button").filter((one) => one.getAttribute("aria-label") === "Edit message")[index];
    await act(async () => button?.click());
    await page.type(text, editor());
    await page.press("Enter", {}, editor());
  };
  const stopped = (): string[] => page.browser.server.of("stop_agent").map(({ payload }) => payload.run_id);

  beforeEach(async () => {
    const { server } = page.browser;
    await page.say("first");
    server.intercept = (socket, message) => {
      const session = server.sessions.get(socket.session);
      if (message.type !== "user_message" || session === undefined) return false;
      server.emit(session, "message_confirmed", message.correlation_id ?? "", {
        message_id: "msg-waiting",
        run_id: "run-waiting",
        thread_id: "t",
        status: "queued",
        position: 1,
      });
      return true;
    };
    await page.say("second");
    server.intercept = () => false;
  });

  it("stops the answer that it replaces, and those that wait behind it", async () => {
    await edit(0, "better");
    expect(sent().at(-1)).toMatchObject({ content: "better", replaces: "msg-run-4", on_busy: "interrupt" });
    expect(stopped()).toEqual(["run-waiting"]);
  });

  it("does not stop the answer to an earlier message", async () => {
    await edit(1, "better");
    expect(sent().at(-1)).toMatchObject({ content: "better", replaces: "msg-waiting" });
    expect(sent().at(-1)).not.toHaveProperty("on_busy");
    expect(stopped()).toEqual(["run-waiting"]);
  });

  it("stops nothing if it is not sent", async () => {
    await edit(0, "x".repeat(20_000));
    expect(stopped()).toEqual([]);
  });
});

describe("another answer", () => {
  it("is requested for the last question, from the chosen agent", async () => {
    await page.answered("first", "one");
    await page.answered("second", "two");
    expect(page.all("button").filter(({ textContent }) => textContent === "Regenerate")).toHaveLength(1);
    const [picker] = page.all<HTMLSelectElement>("select");
    await page.type("wise", picker as unknown as HTMLTextAreaElement);
    await page.click("Regenerate");
    expect(sent().at(-1)).toEqual({ thread_id: "t", content: "second", replaces: "msg-run-5", agent: "wise" });
    expect(bubbles()).toEqual(["first", "second"]);
  });

  it("is offered once for an answer that was stopped", async () => {
    await page.say("first");
    await page.click("Stop");
    expect(page.all("button").filter(({ textContent }) => textContent === "Regenerate")).toHaveLength(1);
    expect(page.has("Send again")).toBe(false);
    await page.click("Regenerate");
    expect(sent().at(-1)).toMatchObject({ content: "first", replaces: "msg-run-4" });
    expect(bubbles()).toEqual(["first"]);
  });
});

describe("an answer without text", () => {
  it("is shown, also on another device, and may be asked for again", async () => {
    await page.say("first");
    await act(async () => page.browser.server.end(page.browser.server.run.id));
    await page.pass();
    const { server } = page.browser;
    server.threads.set("t", (server.threads.get("t") ?? []).filter(({ role }) => role === "user"));
    expect(page.texts(".message.agent > .note")).toEqual(["This answer has no text."]);
    const device = new Browser(page.browser);
    await page.close();
    page = new ChatPage(device);
    await page.show();
    expect(page.texts(".message.agent > .note")).toEqual(["No text of this answer is stored."]);
    await page.click("Regenerate");
    expect(sent().at(-1)).toMatchObject({ content: "first", replaces: "msg-run-4" });
  });

  it("is not shown beside an old answer that names no run", async () => {
    await page.answered("first", "one");
    const { server } = page.browser;
    const known = server.threads.get("t") ?? [];
    server.threads.set(
      "t",
      known.map(({ run, reply_to: _, ...one }) => (one.role === "user" && run ? { ...one, run } : one)),
    );
    const device = new Browser(page.browser);
    await page.close();
    page = new ChatPage(device);
    await page.show();
    expect(page.all(".message.agent")).toHaveLength(1);
    expect(page.texts(".message.agent .parts")).toEqual(["one"]);
  });
});

describe("the agents", () => {
  const [picker, examples] = [
    (): HTMLSelectElement | undefined => page.all<HTMLSelectElement>("select")[0],
    (): string[] => page.texts(".examples button"),
  ];

  it("are chosen for a thread, with their examples", async () => {
    expect(picker()?.labels[0]?.textContent).toBe("AgentEchoThe Sage");
    expect(examples()).toEqual(["First", "Second"]);
    await page.type("wise", picker() as unknown as HTMLTextAreaElement);
    expect(examples()).toEqual(["Third"]);
    expect(page.texts(".welcome-agent")).toEqual(["The Sage"]);
    await page.click("Third");
    expect(sent()).toEqual([{ thread_id: "t", content: "Third", agent: "wise" }]);
    // Another thread begins with the agent chosen last; the choice of a thread stays.
    await page.show("other");
    expect(picker()?.value).toBe("wise");
    await page.type("echo", picker() as unknown as HTMLTextAreaElement);
    await page.show("t");
    expect(picker()?.value).toBe("wise");
    await page.close();
    page = new ChatPage();
    await page.show();
    expect(picker()).toBeUndefined();
    await page.say("to the only one");
    expect(sent()).toEqual([{ thread_id: "t", content: "to the only one" }]);
  });

  it("are named on their answers by their titles", async () => {
    await page.answered("hello", "hi");
    expect(page.texts(".agent-name")).toEqual(["Echo"]);
  });
});

describe("the key that copies the last answer", () => {
  const copy = (): Promise<boolean> => page.press("a", { altKey: true, code: "KeyA" });

  it("copies its text", async () => {
    const copied: string[] = [];
    const clipboard = { writeText: (text: string) => Promise.resolve(copied.push(text)) };
    Object.defineProperty(navigator, "clipboard", { value: clipboard, configurable: true });
    await page.answered("hello", "hi");
    expect(await copy()).toBe(true);
    expect(copied).toEqual(["hi"]);
  });

  it("does nothing without https, where a page has no clipboard", async () => {
    Object.defineProperty(navigator, "clipboard", { value: undefined, configurable: true });
    const faults = vi.fn((event: ErrorEvent) => event.preventDefault());
    addEventListener("error", faults);
    await page.answered("hello", "hi");
    expect(await copy()).toBe(true);
    removeEventListener("error", faults);
    expect(faults).not.toHaveBeenCalled();
  });
});

describe("a rating", () => {
  const feedback = (): unknown[] => page.browser.server.of("feedback").map(({ payload }) => payload);
  const pressed = (): (string | null)[] => page.all(".thumb").map((one) => one.getAttribute("aria-pressed"));

  it("is given, commented and taken back, on an answer that was streamed", async () => {
    await page.answered("hello", "hi");
    await page.click("Good answer");
    expect(pressed()).toEqual(["true", "false"]);
    const message_id = "msg-run-4-answer";
    expect(feedback()).toEqual([{ message_id, rating: "up" }]);
    await page.click("Comment");
    const [area] = page.all<HTMLTextAreaElement>(".feedback textarea");
    expect(document.activeElement).toBe(area);
    await page.type("so good", area);
    await page.click("Send comment");
    expect(feedback().at(-1)).toEqual({ message_id, rating: "up", comment: "so good" });
    expect(page.has("Edit comment")).toBe(true);
    await page.click("Bad answer");
    expect(feedback().at(-1)).toEqual({ message_id, rating: "down", comment: "so good" });
    await page.click("Bad answer");
    expect(feedback().at(-1)).toEqual({ message_id, rating: null });
    expect(pressed()).toEqual(["false", "false"]);
    expect(page.has("Comment")).toBe(false);
  });

  it("is shown after a reload", async () => {
    await page.answered("hello", "hi");
    const known = page.browser.server.threads.get("t") ?? [];
    page.browser.server.threads.set(
      "t",
      known.map((one) => (one.role === "agent" ? { ...one, feedback: { rating: "down", comment: "no" } } : one)),
    );
    const { browser } = page;
    await page.close();
    page = new ChatPage(browser);
    await page.show();
    expect(pressed()).toEqual(["false", "true"]);
    expect(page.has("Edit comment")).toBe(true);
  });

  it("is taken back on the page if the server does not store it", async () => {
    await page.answered("hello", "hi");
    page.browser.server.rejection = { code: "SERVICE_UNAVAILABLE" };
    await page.click("Good answer");
    expect(pressed()).toEqual(["false", "false"]);
    expect(page.texts(".actions [role=alert]")).toEqual([
      "Your rating was not stored. The server cannot do this now.",
    ]);
  });

  /** Answers the request that waits. */
  const refuse = async (): Promise<void> => {
    const { server } = page.browser;
    const { correlation_id } = server.of("feedback").at(-1) ?? {};
    await act(async () => server.error(server.socket, "SERVICE_UNAVAILABLE", correlation_id));
    await page.pass();
  };

  it("stays as the user changed it, if the one before it is not stored", async () => {
    await page.answered("hello", "hi");
    await page.click("Good answer");
    page.browser.server.isMute = true;
    await page.click("Good answer");
    await page.click("Bad answer");
    page.browser.server.isMute = false;
    await refuse();
    expect(feedback().slice(1)).toMatchObject([{ rating: null }, { rating: "down" }]);
    expect([...pressed(), ...page.texts(".actions [role=alert]")]).toEqual(["false", "true"]);
  });

  it("is the last one that the server has stored, if several are not stored", async () => {
    await page.answered("hello", "hi");
    await page.click("Bad answer");
    page.browser.server.isMute = true;
    await page.click("Good answer");
    await page.click("Good answer");
    await refuse();
    await refuse();
    expect(pressed()).toEqual(["false", "true"]);
    expect(page.texts(".actions [role=alert]")).toHaveLength(1);
  });
});

describe("a message", () => {
  it("stands below its day", async () => {
    await page.answered("first", "one");
    await page.pass(86_400_000);
    await page.answered("second", "two");
    await page.answered("third", "three");
    const order = page.all(".day, .bubble").map(({ className }) => className);
    expect(order).toEqual(["day", "bubble", "day", "bubble", "bubble"]);
  });

  it("stands below another name of its day after midnight", async () => {
    await page.answered("first", "one");
    const { now } = page.browser.clock;
    const nameAt = async (ms: number): Promise<string | undefined> => {
      vi.useFakeTimers({ toFake: ["Date"], now: ms });
      await act(async () => void document.dispatchEvent(new Event("visibilitychange")));
      return page.texts(".day")[0];
    };
    expect([await nameAt(now), await nameAt(now + 86_400_000)]).toEqual(["Today", "Yesterday"]);
    vi.useRealTimers();
  });

  it.each([
    [0, "Today"],
    [1, "Yesterday"],
    [3, "Friday"],
    [6, "Tuesday"],
    [7, "November 23"],
    [400, "October 26, 2025"],
  ])("of %i days ago stands below %s", async (ago, text) => {
    const time = new URL("../../pages/chat/messages/time.ts", import.meta.url).pathname;
    const { dayText } = (await import(/* @vite-ignore */ time)) as {
      dayText: (time: Date, now: Date, language: string) => string;
    };
    const now = new Date(2026, 10, 30, 1, 30);
    const at = new Date(2026, 10, 30 - ago, 23, 30);
    expect(dayText(at, now, "en")).toBe(text);
  });

  it("has its time and a button that copies it", async () => {
    const copied: string[] = [];
    const clipboard = { writeText: (text: string) => Promise.resolve(copied.push(text)) };
    Object.defineProperty(navigator, "clipboard", { value: clipboard, configurable: true });
    await page.answered("**hello**", "*hi*");
    const [time] = page.all<HTMLTimeElement>(".message.user time");
    expect(Math.abs(Date.parse(time?.dateTime ?? "") - page.browser.clock.now)).toBeLessThan(1_000);
    await page.click("Copy message");
    await page.click("Copy answer");
    expect(copied).toEqual(["**hello**", "*hi*"]);
  });
});
