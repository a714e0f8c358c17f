/** Messages with files: sent, kept offline and over a reload, shown in other tabs and on other devices. */

import { beforeEach, describe, expect, it } from "vitest";
import type { ListedFile, NetraClient } from "../../src/index.js";
import { Browser, type Tab } from "../support/browser.js";

let browser: Browser;
let tab: Tab;
let client: NetraClient;

const PHOTO = { name: "photo.png", type: "image/png", size: 100 };
const LISTED: ListedFile = { file_id: "file-1", name: "photo.png", media_type: "image/png", bytes: 100 };

beforeEach(async () => {
  browser = new Browser();
  browser.server.keepsHistory = true;
  tab = browser.tab();
  client = await tab.open({ threadId: "t" });
});

const settle = (ms = 10): Promise<void> => browser.clock.advance(ms);

async function upload(): Promise<string> {
  const { done } = client.uploadFile(PHOTO);
  await settle();
  return (await done).file_id;
}

/** Sends a message with a file as the guide does. */
const send = (content = "Look"): Promise<boolean> => {
  const attachments = ["file-1"];
  const correlation_id = client.sendOptimisticMessage(content, "user_message", { attachments });
  return client.sendMessage({ type: "user_message", payload: { content, attachments, correlation_id } });
};
const shown = (of: NetraClient): (readonly ListedFile[])[] => of.getSnapshot().messages.map(({ attachments }) => attachments);
const sent = (): unknown[] => browser.server.of("user_message").map(({ payload }) => payload.attachments);

describe("a message with files", () => {
  it("names them, and shows them with their names at once", async () => {
    await upload();
    browser.server.isMute = true;
    void send();
    expect(shown(client)).toEqual([[LISTED]]);
    await settle();
    expect(sent()).toEqual([["file-1"]]);
    expect(browser.server.of("user_message")[0]).not.toHaveProperty("files");
    expect(shown(client)).toEqual([[LISTED]]);
  });

  it("is refused with too many files, or with one twice", async () => {
    const ids = (count: number): string[] => Array.from({ length: count }, (_, index) => `file-${index}`);
    const check = (attachments: unknown): string | undefined =>
      client.checkMessage({ type: "user_message", payload: { content: "Look", attachments } })?.error;
    expect(check(ids(16))).toBeUndefined();
    expect(check(ids(17))).toBe("$.payload.attachments: expected at most 16 different file ids that are not empty");
    expect(check(["file-1", "file-1"])).toBe("$.payload.attachments: expected at most 16 different file ids that are not empty");
    expect(check(["", "file-1"])).toContain("$.payload.attachments[0]: expected a name");
    expect(await client.sendMessage({ type: "agent_request", payload: { agent: "a", input: "b", attachments: "c" } })).toBe(false);
    expect(client.getSnapshot().lastError?.code).toBe("VALIDATION_ERROR");
  });

  it("waits offline, and is sent with its files after a reload", async () => {
    await upload();
    browser.server.isUp = false;
    browser.server.socket.drop(1006);
    void send();
    await settle(5_000);
    expect(sent()).toEqual([]);
    client = await tab.reload({ threadId: "t" });
    browser.server.isUp = true;
    await settle(60_000);
    expect(sent()).toEqual([["file-1"]]);
    expect(shown(client)[0]).toEqual([LISTED]);
    expect(browser.server.of("user_message")[0]).not.toHaveProperty("files");
  });

  it("is shown after a reload before it is sent, in each tab", async () => {
    await upload();
    browser.server.isMute = true;
    void send();
    const other = await browser.tab().open({ threadId: "t" });
    await settle();
    expect(shown(other)).toEqual([[LISTED]]);
    other.close();
    await settle();
    client = await tab.reload({ threadId: "t" });
    expect(shown(client)).toEqual([[LISTED]]);
  });

  it("shows a file that is not known without a name", async () => {
    await send();
    expect(shown(client)[0]).toEqual([{ file_id: "file-1", name: "", media_type: "application/octet-stream", bytes: 0 }]);
  });

  it("keeps its files if it is sent again", async () => {
    await upload();
    browser.server.rejection = { code: "BUDGET_EXCEEDED" };
    await send();
    browser.server.rejection = null;
    const [failed] = client.getSnapshot().messages;
    expect(client.resend(failed?.id ?? "")).not.toBeNull();
    await settle();
    expect(sent()).toEqual([["file-1"], ["file-1"]]);
    client = await new Browser(browser).tab().open({ threadId: "t" });
    await settle();
    await client.loadThread("t");
    expect(client.resend(client.getSnapshot().messages[0]?.id ?? "")).not.toBeNull();
    await settle();
    expect(sent()).toEqual([["file-1"], ["file-1"], ["file-1"]]);
  });
});

describe("the files of an answer", () => {
  it("come with its end, and with the history on another device", async () => {
    await send();
    const { id } = browser.server.run;
    browser.server.say(id, "Here");
    browser.server.end(id, "completed", ["file-7"]);
    await settle();
    const listed = { file_id: "file-7", name: "file-7.png", media_type: "image/png", bytes: 7 };
    expect(shown(client)[1]).toEqual([listed]);
    expect(client.getSnapshot().runs.at(-1)?.attachments).toEqual([listed]);
    const other = await new Browser(browser).tab().open({ threadId: "t" });
    await other.loadThread("t");
    expect(shown(other)).toEqual([[{ ...listed, file_id: "file-1", name: "file-1.png" }], [listed]]);
    expect(other.getSnapshot().runs[0]?.attachments).toEqual([listed]);
  });

  it("are seen live on a device that watches the thread, as those of the message", async () => {
    await send("first");
    browser.server.end(browser.server.run.id);
    const other = await new Browser(browser).tab().open({ threadId: "t" });
    other.watchThread("t");
    await settle();
    await send("second");
    await settle(100);
    // The event has no names: they are read from the history.
    expect(shown(other).at(-2)).toMatchObject([{ file_id: "file-1", name: "file-1.png" }]);
    browser.server.say(browser.server.run.id, "Here");
    browser.server.end(browser.server.run.id, "completed", ["file-7"]);
    await settle();
    expect(shown(other).at(-1)).toMatchObject([{ file_id: "file-7", name: "file-7.png" }]);
  });
});
