/** The order of a conversation, and the pages of its history. */

import { act } from "react";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import type { HistoryMessage } from "../../src/index.js";
import { ChatPage } from "../support/chat.js";
import { stubLayers } from "../support/layers.js";

// The page's own packages are not installed for these tests.
vi.mock("../../pages/chat/markdown/Markdown.tsx", () => ({ Markdown: ({ text }: { text: string }) => text }));
stubLayers();

let page: ChatPage;
let frames: FrameRequestCallback[];

beforeEach(() => {
  page = new ChatPage();
  localStorage.clear();
  frames = [];
  vi.stubGlobal("requestAnimationFrame", (show: FrameRequestCallback) => frames.push(show));
  vi.stubGlobal("cancelAnimationFrame", () => undefined);
});

afterEach(() => page.close());

/** Lets time pass, and the page show a frame. */
async function frame(): Promise<void> {
  await page.pass(100);
  await act(async () => frames.splice(0).forEach((show) => show(0)));
}

/** Each message: who wrote it, and its text. */
const listed = (): string[] =>
  page.all(".log > .message").map((message) => {
    const text = message.querySelector(".bubble, .parts")?.textContent ?? "";
    return `${message.classList.contains("agent") ? "agent" : "user"}: ${text}`;
  });

describe("the earlier messages", () => {
  const PAGE = 50;
  let answersHistory: (() => Promise<void>) | null;
  let isHeld: boolean;

  /** So many messages. @param prefix Of their ids, and of those of their runs. */
  const history = (count: number, prefix: string): HistoryMessage[] =>
    Array.from({ length: count }, (_, index) => {
      const run = { run_id: `${prefix}r${index}`, agent_name: "echo", status: "completed" as const };
      return {
        message_id: `${prefix}m${index}`,
        role: index % 2 === 0 ? "user" : "agent",
        content: `message ${index}`,
        created_at: 1_000 + index,
        ...(index % 2 === 0 ? {} : { reply_to: `${prefix}m${index - 1}`, run }),
      };
    });

  /** The threads `t` and `u` with so many messages each, which the server gives in pages. */
  function keep(count: number): void {
    const { server } = page.browser;
    const threads = new Map([["t", history(count, "")], ["u", history(count, "u-")]]);
    server.threads.set("other", []);
    isHeld = false;
    answersHistory = null;
    server.intercept = (socket, { type, payload, correlation_id }) => {
      if (type !== "get_thread_history" || server.rejection !== null) return false;
      const { limit = PAGE, before, thread_id } = payload;
      const all = threads.get(thread_id);
      if (all === undefined) return false;
      const end = before === undefined ? all.length : all.findIndex(({ message_id }) => message_id === before);
      const begin = Math.max(end - limit, 0);
      const answer = { thread_id, messages: all.slice(begin, end), has_more: begin > 0 };
      const give = (): void => server.control(socket, "thread_history", answer, correlation_id);
      if (isHeld) {
        answersHistory = async () => {
          await act(async () => give());
          await page.pass();
        };
      } else give();
      return true;
    };
  }

  const buttons = (): HTMLElement[] => page.all(".earlier");
  const requests = (): unknown[] => page.browser.server.of("get_thread_history").map(({ payload }) => payload.before);
  const status = (): string => page.texts(".column > [role=status]").join();
  const load = async (): Promise<void> => {
    await act(async () => {
      buttons()[0]?.focus();
      buttons()[0]?.click();
    });
    await page.pass();
  };

  it.each([[PAGE, false], [PAGE + 1, true]])("of a history of %i messages: %s", async (count, hasEarlier) => {
    keep(count);
    await page.show();
    expect(listed()).toHaveLength(PAGE);
    expect(buttons()).toHaveLength(hasEarlier ? 1 : 0);
  });

  it("are loaded page by page, in front; the focus stays at the button, and then goes to the first of them", async () => {
    keep(2 * PAGE + 1);
    await page.show();
    await load();
    expect(listed()).toHaveLength(2 * PAGE);
    expect([listed()[0], listed().at(-1)]).toEqual(["agent: message 1", "user: message 100"]);
    expect(document.activeElement).toBe(buttons()[0]);
    expect(status()).toBe("50 earlier messages are shown above.");
    await load();
    expect(listed()).toHaveLength(2 * PAGE + 1);
    expect(status()).toBe("1 earlier message is shown above.");
    expect(buttons()).toEqual([]);
    expect(document.activeElement).toBe(page.all(".log > .message")[0]);
    expect(requests()).toEqual([undefined, "m51", "m1"]);
  });

  it("leave the focus where the user has moved it meanwhile", async () => {
    keep(PAGE + 1);
    await page.show();
    isHeld = true;
    await load();
    await act(async () => page.box.focus());
    await answersHistory?.();
    expect(buttons()).toEqual([]);
    expect(document.activeElement).toBe(page.box);
  });

  it("are requested once, and the button says so", async () => {
    keep(2 * PAGE);
    await page.show();
    isHeld = true;
    await load();
    const [button] = buttons();
    expect([button?.textContent, button?.getAttribute("aria-disabled"), status()]).toEqual(["Loading…", "true", ""]);
    await load();
    expect(requests()).toHaveLength(2);
    await answersHistory?.();
    expect(buttons()).toEqual([]);
    expect(listed()).toHaveLength(2 * PAGE);
  });

  it("are requested once, also if those of another conversation are requested meanwhile", async () => {
    keep(2 * PAGE);
    await page.show();
    isHeld = true;
    await load();
    const answerFirst = answersHistory;
    isHeld = false;
    await page.show("u");
    isHeld = true;
    await load();
    await page.show();
    expect(buttons()[0]?.textContent).toBe("Loading…");
    await page.show("u");
    await answerFirst?.();
    expect(buttons()[0]?.textContent).toBe("Loading…");
    await answersHistory?.();
    expect(status()).toBe("50 earlier messages are shown above.");
    expect(listed()).toHaveLength(2 * PAGE);
  });

  it("can be requested again after an error", async () => {
    keep(PAGE + 1);
    await page.show();
    page.browser.server.rejection = { code: "SERVICE_UNAVAILABLE" };
    await load();
    expect(status()).toBe("The earlier messages could not be loaded. Try again.");
    expect(document.activeElement).toBe(buttons()[0]);
    page.browser.server.rejection = null;
    await load();
    expect(status()).toBe("1 earlier message is shown above.");
  });

  it("stay after another conversation, and a newest page does not bring the button back", async () => {
    keep(PAGE + 1);
    await page.show();
    await load();
    await page.show("other");
    expect([status(), buttons().length]).toEqual(["", 0]);
    await page.show("t");
    const before = requests().length;
    await act(async () => page.browser.server.rooms.lose("thread:t", 1)); // then the client reads the history again
    await page.pass(5_000);
    expect(requests().slice(before)).toContain(undefined);
    expect(listed()).toHaveLength(PAGE + 1);
    expect(buttons()).toEqual([]);
  });
});

describe("the order of a conversation", () => {
  /** The server puts the next messages behind the run. */
  function queue(): void {
    const { server } = page.browser;
    let position = 0;
    server.intercept = (socket, message) => {
      const session = server.sessions.get(socket.session);
      if (message.type !== "user_message" || session === undefined) return false;
      position += 1;
      const key = message.correlation_id ?? "";
      const [message_id, run_id] = [`msg-w${position}`, `run-w${position}`];
      server.runs.set(run_id, { id: run_id, session, thread: "t", key, text: "", status: "running", end: null, questions: [] });
      server.emit(session, "message_confirmed", key, { message_id, run_id, thread_id: "t", status: "queued", position });
      return true;
    };
  }
  const start = (run_id: string): Promise<void> =>
    act(async () => page.browser.server.event(run_id, "agent_started", { agent_name: "echo", thread_id: "t", attempt: 1 }));
  const say = (run_id: string, text: string): Promise<void> => act(async () => page.browser.server.say(run_id, text));
  const end = (run_id: string, status: "completed" | "cancelled" = "completed"): Promise<void> =>
    act(async () => page.browser.server.end(run_id, status));

  it("has each answer below its question, whichever began first, also after a reload", async () => {
    await page.show();
    const { server } = page.browser;
    const runs: string[] = [];
    for (const text of ["one", "two", "three"]) {
      await page.say(text);
      runs.push(server.run.id);
    }
    const [one = "", two = "", three = ""] = runs;
    await say(three, "c");
    await act(async () => server.event(two, "tool_executing", { tool_call_id: "t2", tool_name: "look", arguments: {} }));
    await say(two, "b");
    await say(one, "a");
    await end(three);
    await act(async () => server.event(two, "tool_completed", { tool_call_id: "t2", tool_name: "look", success: true, duration_ms: 1 }));
    await say(one, "a");
    await frame();
    const texts = (): string[] => listed().map((text) => text.replace(/look.*Arguments.*\}/s, "[look]"));
    const expected = ["user: one", "agent: aa", "user: two", "agent: [look]b", "user: three", "agent: c"];
    expect(texts()).toEqual(expected);
    await end(one);
    await end(two, "cancelled");
    await frame();
    expect(texts()).toEqual(expected);
    const { browser } = page;
    await page.close();
    page = new ChatPage(browser);
    await page.show();
    expect(texts()).toEqual(expected);
  });

  it("has messages that wait at their place, and their answers below them", async () => {
    await page.show();
    await page.say("one");
    const first = page.browser.server.run.id;
    queue();
    await page.say("two");
    await page.say("three");
    await say(first, "a");
    await frame();
    expect(listed()).toEqual(["user: one", "agent: a", "user: two", "user: three"]);
    await end(first);
    await start("run-w1");
    await say("run-w1", "b");
    await frame();
    expect(listed()).toEqual(["user: one", "agent: a", "user: two", "agent: b", "user: three"]);
    await end("run-w1");
    await start("run-w2");
    await end("run-w2", "cancelled");
    await frame();
    expect(listed()).toEqual(["user: one", "agent: a", "user: two", "agent: b", "user: three", "agent: "]);
  });

  it("has what was interrupted above the message that interrupted it", async () => {
    await page.show();
    await page.say("one");
    const first = page.browser.server.run.id;
    await say(first, "a");
    queue();
    await page.say("no, two");
    await end(first, "cancelled");
    await start("run-w1");
    await say("run-w1", "b");
    await frame();
    expect(listed()).toEqual(["user: one", "agent: a", "user: no, two", "agent: b"]);
  });
});
