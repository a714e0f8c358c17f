/** What asks for the user's attention on the chat page: the title and icon of its tab, and notifications. */

import { act } from "react";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { Browser } from "../support/browser.js";
import { openPage, type ChatPage } from "../support/chat-page.js";

// The page's own packages are not installed for these tests.
vi.mock("../../pages/chat/markdown/Markdown.tsx", () => ({ Markdown: ({ text }: { text: string }) => text }));

const WANTED = "netra.notify.alice";

let browser: Browser;
let page: ChatPage;
let visibility: DocumentVisibilityState;

const show = (state: DocumentVisibilityState): Promise<void> =>
  act(async () => {
    visibility = state;
    document.dispatchEvent(new Event("visibilitychange"));
  });
/** A thread changes on the server. */
const change = async (name: string, more: Parameters<Browser["server"]["rooms"]["list"]>[1]): Promise<void> => {
  const { rooms } = browser.server;
  rooms.list(name, { title: `About ${name}`, ...more });
  await act(async () => rooms.changed(name, "updated"));
  await page.pass();
};

beforeEach(() => {
  browser = new Browser();
  localStorage.clear();
  location.hash = "#/open";
  visibility = "visible";
  vi.spyOn(document, "visibilityState", "get").mockImplementation(() => visibility);
});

afterEach(async () => {
  await page.close();
  vi.restoreAllMocks();
  vi.unstubAllGlobals();
  document.head.replaceChildren();
});

describe("the tab's title and icon", () => {
  it("count the conversations that wait for the user", async () => {
    document.head.innerHTML = "<link rel=icon href='/icon.svg'>";
    const icon = (): string | null => document.querySelector("link")?.getAttribute("href") ?? null;
    page = await openPage(browser);
    expect([document.title, icon()]).toEqual(["Chat", "/icon.svg"]);
    await change("one", { unread: 3 });
    await change("two", { asks: true, runs_active: 1 });
    expect(document.title).toBe("(2) Chat");
    expect(icon()).toMatch(/\/icon-waiting\.svg$/);
    await change("one", { unread: 0 });
    expect(document.title).toBe("(1) Chat");
    await change("two", { asks: false, runs_active: 0 });
    expect(document.title).toBe("Chat");
    expect(icon()).toMatch(/\/icon\.svg$/);
  });

  it("do not count the conversation that the user sees", async () => {
    page = await openPage(browser);
    await change("open", { asks: true, runs_active: 1 });
    expect(document.title).toBe("Chat");
    await show("hidden");
    expect(document.title).toBe("(1) Chat");
    await show("visible");
    expect(document.title).toBe("Chat");
  });

  it("leave the icon of an embedding page", async () => {
    document.head.innerHTML = "<link rel=icon href='/own.png'>";
    page = await openPage(browser);
    await change("one", { unread: 1 });
    expect(document.querySelector("link")?.getAttribute("href")).toBe("/own.png");
  });
});

interface Shown {
  readonly title: string;
  readonly options: NotificationOptions;
  onclick: (() => void) | null;
  isClosed: boolean;
}

describe("notifications", () => {
  let shown: Shown[];
  let permission: NotificationPermission;
  let answer: NotificationPermission;
  let requests: number;

  beforeEach(() => {
    shown = [];
    permission = "default";
    answer = "granted";
    requests = 0;
    class Fake implements Shown {
      onclick: (() => void) | null = null;
      isClosed = false;
      constructor(
        readonly title: string,
        readonly options: NotificationOptions,
      ) {
        shown.push(this);
      }
      static get permission(): NotificationPermission {
        return permission;
      }
      static requestPermission(): Promise<NotificationPermission> {
        requests += 1;
        permission = answer;
        return Promise.resolve(permission);
      }
      close(): void {
        this.isClosed = true;
      }
    }
    vi.stubGlobal("Notification", Fake);
    Object.defineProperty(navigator, "locks", { configurable: true, value: new Locks() });
  });

  afterEach(() => Reflect.deleteProperty(navigator, "locks"));

  const texts = (): string[] => shown.map(({ title, options: { body = "" } }) => `${title}: ${body}`);
  const button = (): HTMLElement => page.find("[aria-label=Notifications]");

  it("are asked for by a button only, and remembered for the user", async () => {
    page = await openPage(browser);
    expect([requests, button().getAttribute("aria-pressed")]).toEqual([0, "false"]);
    await page.click("Notifications");
    expect([requests, button().getAttribute("aria-pressed"), localStorage.getItem(WANTED)]).toEqual([1, "true", "true"]);
    await page.click("Notifications");
    expect([button().getAttribute("aria-pressed"), localStorage.getItem(WANTED)]).toEqual(["false", null]);
    expect(document.activeElement).toBe(button());
    localStorage.setItem(WANTED, "true"); // in another tab
    await act(async () => void dispatchEvent(new StorageEvent("storage", { key: WANTED })));
    expect(button().getAttribute("aria-pressed")).toBe("true");
  });

  it("that the browser refuses are explained", async () => {
    answer = "denied";
    page = await openPage(browser);
    await page.click("Notifications");
    expect(page.find(".notify-note").textContent).toMatch(/^Your browser blocks notifications/);
    expect([button().getAttribute("aria-pressed"), localStorage.getItem(WANTED)]).toEqual(["false", null]);
  });

  it("are not offered where the browser has none", async () => {
    vi.spyOn(navigator, "userAgent", "get").mockReturnValue("Linux; Android 15");
    page = await openPage(browser);
    expect(page.has("Notifications")).toBe(false);
  });

  it("name the conversation when an answer is complete or an agent asks, while the page is hidden", async () => {
    permission = "granted";
    localStorage.setItem(WANTED, "true");
    browser.server.rooms.list("one", { title: "About one", unread: 1, updated_at: browser.clock.now / 1000 - 60 });
    page = await openPage(browser);
    await change("one", { unread: 2 });
    await show("hidden");
    expect(shown).toEqual([]);
    await change("new", { runs_active: 1 });
    await change("new", { runs_active: 0, unread: 1 });
    await change("one", { unread: 2, asks: true, runs_active: 1 });
    await change("one", { unread: 2, asks: true, runs_active: 1 });
    await change("one", { unread: 0 });
    expect(texts()).toEqual(["About new: The answer is complete.", "About one: The agent waits for your answer."]);
    expect(shown[0]?.options).toMatchObject({ tag: "netra.new", dir: "auto" });
    act(() => shown[0]?.onclick?.());
    expect([location.hash, shown[0]?.isClosed, shown[1]?.isClosed]).toEqual(["#/new", true, false]);
    await show("visible");
    expect(shown[1]?.isClosed).toBe(true);
  });

  it("that the browser refuses later do no harm", async () => {
    permission = "granted";
    localStorage.setItem(WANTED, "true");
    browser.server.rooms.list("one", { title: "About one", updated_at: browser.clock.now / 1000 - 60 });
    page = await openPage(browser);
    const refuse = (): never => {
      throw new TypeError("Illegal constructor");
    };
    vi.stubGlobal("Notification", Object.assign(refuse, { permission }));
    const refused: unknown[] = [];
    const onRejection = (reason: unknown): void => void refused.push(reason);
    process.on("unhandledRejection", onRejection);
    await show("hidden");
    await change("one", { unread: 1 });
    await new Promise((resolve) => setImmediate(resolve));
    process.off("unhandledRejection", onRejection);
    expect([refused, document.title]).toEqual([[], "(1) Chat"]);
  });

  it("are shown once for several tabs, and not while another tab is visible", async () => {
    permission = "granted";
    localStorage.setItem(WANTED, "true");
    page = await openPage(browser);
    const other = await openPage(browser);
    await other.pass(3_000); // A tab without the connection reads the list later.
    const { locks } = navigator as unknown as { readonly locks: Locks };
    await show("hidden");
    await change("one", { unread: 1 });
    expect(texts()).toEqual(["About one: The answer is complete."]);
    const end = new AbortController();
    void locks.request(`${WANTED}.visible`, { mode: "shared", signal: end.signal }, () => new Promise((resolve) => end.signal.addEventListener("abort", resolve)));
    await change("one", { unread: 2 });
    expect(shown).toHaveLength(1);
    end.abort();
    await page.pass();
    // The first tab is closed: the other one goes on.
    await page.close();
    page = other;
    await other.pass();
    await change("one", { unread: 3 });
    expect(shown).toHaveLength(2);
  });
});

/** The locks of a browser, for the tabs of one document. */
class Locks {
  readonly #held: { readonly name: string; readonly mode: LockMode }[] = [];
  readonly #waiting: (() => boolean)[] = [];

  request(name: string, options: LockOptions, run: (lock: object | null) => unknown): Promise<void> {
    const { mode = "exclusive", signal, ifAvailable = false } = options;
    return new Promise((resolve, reject) => {
      const grant = (): boolean => {
        if (signal?.aborted) {
          reject(new Error("aborted"));
          return true;
        }
        if (this.#held.some((lock) => lock.name === name && (mode === "exclusive" || lock.mode === "exclusive"))) return false;
        const lock = { name, mode };
        this.#held.push(lock);
        void Promise.resolve(run(lock)).then(() => {
          this.#held.splice(this.#held.indexOf(lock), 1);
          this.#waiting.splice(0).forEach((next) => next() || this.#waiting.push(next));
          resolve();
        });
        return true;
      };
      if (grant()) return;
      if (ifAvailable) resolve(run(null) as undefined);
      else this.#waiting.push(grant);
    });
  }

  query(): Promise<{ readonly held: readonly { readonly name: string }[] }> {
    return Promise.resolve({ held: [...this.#held] });
  }
}
