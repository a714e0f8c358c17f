/** A conversation as Markdown: copied, downloaded and printed. */

import { act } from "react";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { RequestError, type HistoryMessage } from "../../src/index.js";
import { ChatPage } from "../support/chat.js";

vi.mock("../../pages/chat/markdown/Markdown.tsx", () => ({ Markdown: ({ text }: { text: string }) => text }));

let page: ChatPage;
const files: { name: string; blob: Blob }[] = [];

beforeEach(async () => {
  localStorage.clear();
  files.length = 0;
  page = new ChatPage();
  HTMLElement.prototype.hidePopover = () => undefined;
  let blob = new Blob([]);
  URL.createObjectURL = (given) => {
    blob = given as Blob;
    return "blob:x";
  };
  URL.revokeObjectURL = () => undefined;
  vi.spyOn(HTMLAnchorElement.prototype, "click").mockImplementation(function click(this: HTMLAnchorElement) {
    files.push({ name: this.download, blob });
  });
  await page.show();
});

afterEach(async () => {
  vi.restoreAllMocks();
  await page.close();
});

const textOf = (blob: Blob): Promise<string> =>
  new Promise((resolve) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result as string);
    reader.readAsText(blob);
  });
const pick = async (name: string): Promise<void> => {
  await page.click(name);
  await page.pass(50);
};

describe("a conversation", () => {
  it("has no menu while it is empty", () => {
    expect(page.has("Conversation")).toBe(false);
  });

  it("is downloaded with every message, its author and its time", async () => {
    await page.answered("What *is* it?", "It is **this**.");
    await page.say("waits");
    await pick("Download as Markdown");
    const [file] = files;
    expect(file?.name).toBe("What-is-it.md");
    const text = await textOf(file?.blob ?? new Blob([]));
    const time = /\d{4}-\d\d-\d\d \d\d:\d\d/g;
    expect(text.replace(time, "T")).toBe(
      "# What *is* it?\n\n## You – T\n\nWhat *is* it?\n\n## Echo – T\n\nIt is **this**.\n\n## You – T\n\nwaits\n",
    );
    expect(page.texts(".export-status")).toEqual(["Downloaded"]);
  });

  it("is copied", async () => {
    const copied: string[] = [];
    const clipboard = { writeText: (text: string) => Promise.resolve(copied.push(text)) };
    Object.defineProperty(navigator, "clipboard", { value: clipboard, configurable: true });
    await page.answered("hello", "hi");
    await pick("Copy as Markdown");
    expect(copied[0]).toContain("# hello\n\n## You");
    expect(page.texts(".export-status")).toEqual(["Copied as Markdown"]);
  });

  it("says that the browser does not allow to copy it", async () => {
    const clipboard = { writeText: () => Promise.reject(new DOMException("no", "NotAllowedError")) };
    Object.defineProperty(navigator, "clipboard", { value: clipboard, configurable: true });
    await page.answered("hello", "hi");
    await pick("Copy as Markdown");
    expect(page.texts(".export-status")).toEqual(["This did not work. The browser did not allow it."]);
  });

  it("is printed once it is loaded", async () => {
    const print = vi.fn();
    vi.stubGlobal("print", print);
    await page.answered("hello", "hi");
    await page.click("Print");
    await act(async () => vi.waitFor(() => expect(print).toHaveBeenCalledOnce()));
  });
});

describe("the whole history", () => {
  interface Load {
    readonly loadAll: (client: object, thread: string, onProgress: (count: number) => void) => Promise<void>;
  }
  const all = Array.from({ length: 250 }, (_, n): HistoryMessage => ({
    message_id: `m-${n}`,
    role: "user",
    content: `${n}`,
    created_at: n,
  }));

  /** Has loaded the newest 50 messages; rejects the first requests with these codes. */
  function client(...codes: string[]): { asked: string[]; getSnapshot: unknown; loadThread: unknown } {
    const asked: string[] = [];
    const shown = all.slice(200).map(({ message_id, content }) => ({
      role: "user", id: message_id, message_id, content, payload: {}, thread_id: "t", run_id: null, run_status: null, status: "confirmed",
    }));
    const snapshot = { messages: shown, runs: [], outline: { messages: shown, runs: [] } };
    return {
      asked,
      getSnapshot: () => snapshot,
      loadThread: (_: string, { limit, before }: { limit: number; before: string }) => {
        const code = codes.shift();
        const body = { error: "", help: "", recoverable: true, timestamp: 0, retry_after_ms: 1 };
        if (code !== undefined) return Promise.reject(new RequestError({ ...body, code }));
        asked.push(before);
        const end = all.findIndex(({ message_id }) => message_id === before);
        const messages = all.slice(Math.max(0, end - limit), end);
        return Promise.resolve({ thread_id: "t", messages, has_more: end > limit });
      },
    };
  }
  const load = async (): Promise<Load> => {
    const source = new URL("../../pages/chat/export/loadAll.ts", import.meta.url).pathname;
    return (await import(/* @vite-ignore */ source)) as Load;
  };

  it("is loaded page by page, and tried again where the server asks to wait", async () => {
    const { loadAll } = await load();
    const progress: number[] = [];
    const one = client("RATE_LIMIT_EXCEEDED", "SERVICE_UNAVAILABLE");
    await loadAll(one, "t", (count) => progress.push(count));
    expect(one.asked).toEqual(["m-200", "m-100"]);
    expect(progress).toEqual([100, 200]);
  });

  it("is given up after another error, and after five rejections", async () => {
    const { loadAll } = await load();
    await expect(loadAll(client("INTERNAL_ERROR"), "t", () => undefined)).rejects.toThrow("INTERNAL_ERROR");
    const busy = Array.from({ length: 5 }, () => "RATE_LIMIT_EXCEEDED");
    await expect(loadAll(client(...busy), "t", () => undefined)).rejects.toThrow("RATE_LIMIT_EXCEEDED");
  });

  describe("that is left while it is loaded", () => {
    /** Leaves the conversation once the export waits for the server, which then answers. */
    const leaveAt = async (item: string): Promise<void> => {
      const { server } = page.browser;
      await page.answered("hello", "hi");
      server.isMute = true;
      await page.click(item);
      await page.show("other");
      await page.pass(2_000);
      await page.show("third");
      server.isMute = false;
      const { correlation_id } = server.of("get_thread_history").find(({ payload }) => payload.before !== undefined) ?? {};
      const messages = server.threads.get("t") ?? [];
      await act(async () => server.control(server.socket, "thread_history", { thread_id: "t", messages, has_more: false }, correlation_id));
      await page.pass(50);
      await act(async () => new Promise((resolve) => requestAnimationFrame(() => resolve())));
    };

    it("is downloaded nevertheless", async () => {
      await leaveAt("Download as Markdown");
      expect(files.map(({ name }) => name)).toEqual(["hello.md"]);
      expect(await textOf(files[0]?.blob ?? new Blob([]))).toContain("hello\n\n## Echo");
    });

    it("is not printed: the page shows another one", async () => {
      const print = vi.fn();
      vi.stubGlobal("print", print);
      await leaveAt("Print");
      expect(print).not.toHaveBeenCalled();
    });
  });
});
