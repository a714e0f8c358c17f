/** Drafts and refused messages in the browser's storage. */

import { beforeEach, describe, expect, it, vi } from "vitest";

type Locks = Pick<LockManager, "request">;
interface DraftsOf {
  read(user: string, thread: string): string;
  write(user: string, thread: string, text: string): void;
  takeOver(user: string, thread: string): Promise<void>;
}
const load = async <T,>(name: string): Promise<T> => {
  const source = new URL(name, import.meta.url).pathname;
  return (await import(/* @vite-ignore */ source)) as T;
};
const { forgetUser } = await load<{ forgetUser: (user: string) => void }>("../../pages/shared/userData.ts");
const { Drafts } = await load<{ Drafts: new (locks: Locks | undefined) => DraftsOf }>("../../pages/chat/composer/drafts.ts");

/** The locks of a browser; `close` ends a tab. */
class Browser {
  readonly #held = new Set<string>();

  tab(isDuplicate = false): { drafts: DraftsOf; close: () => void } {
    if (!isDuplicate) sessionStorage.clear();
    const own: string[] = [];
    const request = async (name: string, ...rest: unknown[]): Promise<unknown> => {
      const run = rest.at(-1) as (lock: Lock | null) => unknown;
      if (this.#held.has(name)) return run(null);
      this.#held.add(name);
      own.push(name);
      try {
        return await run({ name, mode: "exclusive" });
      } finally {
        this.#held.delete(name);
      }
    };
    const drafts = new Drafts({ request });
    return { drafts, close: () => own.forEach((name) => this.#held.delete(name)) };
  }
}

const settle = async (): Promise<void> => {
  for (let n = 0; n < 10; n += 1) await Promise.resolve();
};
const stored = (): number => localStorage.length;

let browser: Browser;
beforeEach(() => {
  localStorage.clear();
  sessionStorage.clear();
  browser = new Browser();
  vi.useRealTimers();
});

describe("drafts", () => {
  it("of two tabs do not overwrite each other", async () => {
    const one = browser.tab();
    one.drafts.write("alice", "t", "of one");
    const two = browser.tab();
    await two.drafts.takeOver("alice", "t");
    expect(two.drafts.read("alice", "t")).toBe("");
    two.drafts.write("alice", "t", "of two");
    two.drafts.write("alice", "t", "");
    expect(one.drafts.read("alice", "t")).toBe("of one");
  });

  it("of a closed tab are taken over once", async () => {
    const one = browser.tab();
    one.drafts.write("alice", "t", "left");
    one.close();
    const two = browser.tab();
    await two.drafts.takeOver("bob", "t");
    await two.drafts.takeOver("alice", "other");
    expect(two.drafts.read("alice", "t")).toBe("");
    await two.drafts.takeOver("alice", "t");
    expect(two.drafts.read("alice", "t")).toBe("left");
    const three = browser.tab();
    await three.drafts.takeOver("alice", "t");
    expect(three.drafts.read("alice", "t")).toBe("");
    expect(stored()).toBe(1);
  });

  it("of a closed tab do not replace what is typed", async () => {
    const one = browser.tab();
    one.drafts.write("alice", "t", "left");
    one.close();
    const two = browser.tab();
    two.drafts.write("alice", "t", "typed");
    await two.drafts.takeOver("alice", "t");
    expect(two.drafts.read("alice", "t")).toBe("typed");
  });

  it("of a duplicated tab are its own", async () => {
    const one = browser.tab();
    one.drafts.write("alice", "t", "same");
    const copy = browser.tab(true);
    expect(copy.drafts.read("alice", "t")).toBe("same");
    await settle();
    copy.drafts.write("alice", "t", "changed");
    expect(one.drafts.read("alice", "t")).toBe("same");
    expect(stored()).toBe(2);
  });

  it("are the newest 50, and none is older than 30 days", () => {
    vi.useFakeTimers({ now: 1_700_000_000_000 });
    const { drafts } = browser.tab();
    for (let n = 0; n <= 50; n += 1) {
      vi.advanceTimersByTime(1);
      drafts.write("alice", `t-${n}`, "text");
    }
    expect(stored()).toBe(50);
    const again = new Drafts(undefined);
    expect([again.read("alice", "t-0"), again.read("alice", "t-1")]).toEqual(["", "text"]);
    vi.advanceTimersByTime(30 * 86_400_000 + 1);
    drafts.write("alice", "new", "text");
    expect(stored()).toBe(1);
  });

  it("are removed when their user signs out", () => {
    const { drafts } = browser.tab();
    drafts.write("alice", "t", "secret");
    drafts.write("bob", "t", "other");
    forgetUser("alice");
    expect(drafts.read("alice", "t")).toBe("");
    expect(stored()).toBe(1);
  });

  it("are ignored if another version has stored them", async () => {
    localStorage.setItem("netra.draft [", "{}");
    localStorage.setItem(`netra.draft ${JSON.stringify(["alice", "t", "x"])}`, "not JSON");
    const { drafts } = browser.tab();
    await drafts.takeOver("alice", "t");
    drafts.write("alice", "t", "text");
    expect(drafts.read("alice", "t")).toBe("text");
  });

  it("of other tabs stay where they are if the browser refuses locks", async () => {
    browser.tab().drafts.write("alice", "t", "of one");
    sessionStorage.clear();
    const drafts = new Drafts({ request: () => Promise.reject(new DOMException("not here", "SecurityError")) });
    await drafts.takeOver("alice", "t");
    await settle();
    expect(drafts.read("alice", "t")).toBe("");
  });

  it("last as long as the page without storage", () => {
    vi.spyOn(Storage.prototype, "setItem").mockImplementation(() => {
      throw new DOMException("full", "QuotaExceededError");
    });
    const { drafts } = browser.tab();
    drafts.write("alice", "t", "text");
    expect(drafts.read("alice", "t")).toBe("text");
    vi.restoreAllMocks();
  });
});

describe("refused messages", () => {
  interface Unsent {
    readonly unsentIn: (user: string, thread: string) => readonly { id: string }[];
    readonly rememberUnsent: (user: string, thread: string, message: object) => void;
    readonly forgetUnsent: (user: string, thread: string, id: string) => void;
  }
  const message = (id: string, at = Date.now()): object => ({ id, content: id, error: null, at });
  const ids = (list: readonly { id: string }[]): string[] => list.map(({ id }) => id);

  it("are the newest 20 of a thread, for 30 days, each once", async () => {
    const { unsentIn, rememberUnsent, forgetUnsent } = await load<Unsent>("../../pages/chat/composer/unsent.ts");
    for (let n = 0; n <= 20; n += 1) rememberUnsent("alice", "t", message(`m-${n}`));
    rememberUnsent("alice", "t", message("m-20"));
    expect(unsentIn("alice", "t")).toHaveLength(20);
    expect(unsentIn("alice", "t")).toBe(unsentIn("alice", "t"));
    expect(ids(unsentIn("alice", "t"))[0]).toBe("m-1");
    forgetUnsent("alice", "t", "m-1");
    expect(ids(unsentIn("alice", "t"))[0]).toBe("m-2");
    rememberUnsent("alice", "old", message("m", Date.now() - 30 * 86_400_000));
    expect(unsentIn("alice", "old")).toEqual([]);
  });

  it("are those of 50 threads, the newest ones, and no old ones stay stored", async () => {
    const { unsentIn, rememberUnsent } = await load<Unsent>("../../pages/chat/composer/unsent.ts");
    const now = Date.now();
    rememberUnsent("alice", "old", message("m", now - 30 * 86_400_000));
    for (let n = 0; n <= 50; n += 1) rememberUnsent("alice", `t-${n}`, message("m", now + n));
    expect([unsentIn("alice", "t-0").length, unsentIn("alice", "t-1").length, stored()]).toEqual([0, 1, 50]);
  });

  it("are removed when their user signs out", async () => {
    const { unsentIn, rememberUnsent } = await load<Unsent>("../../pages/chat/composer/unsent.ts");
    rememberUnsent("alice", "t", message("m"));
    rememberUnsent("alice2", "t", message("m"));
    forgetUser("alice");
    expect(unsentIn("alice", "t")).toEqual([]);
    expect(unsentIn("alice2", "t")).toHaveLength(1);
  });
});
