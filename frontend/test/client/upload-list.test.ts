/** Several uploads for one message: their order, their number, and what a message can take. */

import { beforeEach, describe, expect, it, vi } from "vitest";
import type { NetraClient, UploadItem, UploadList } from "../../src/index.js";
import { Browser, type Tab } from "../support/browser.js";
import type { FakeFile, FakeFiles } from "../support/files.js";
import { tokenFor } from "../support/server.js";

let browser: Browser;
let tab: Tab;
let client: NetraClient;
let files: FakeFiles;
let list: UploadList;

beforeEach(async () => {
  browser = new Browser();
  files = browser.server.files;
  files.isAutomatic = false;
  tab = browser.tab();
  client = await tab.open();
  list = client.createUploads();
});

const file = (number: number): FakeFile => ({ name: `${number}.txt`, type: "text/plain", size: number });
const some = (count: number): FakeFile[] => Array.from({ length: count }, (_, index) => file(index + 1));
const settled = (): Promise<void> => browser.clock.advance(0);
const states = (): string[] => list.getSnapshot().map(({ status }) => status);
const item = (index: number): UploadItem => {
  const found = list.getSnapshot()[index];
  if (found === undefined) throw new Error(`there is no item ${index}`);
  return found;
};

describe("a list of uploads", () => {
  it("shows the progress and the end of each", async () => {
    let changes = 0;
    const end = list.subscribe(() => (changes += 1));
    const photo = { name: "photo.png", type: "image/png", size: 100, media_type: "image/webp" };
    list.add([photo]);
    const known = { name: "photo.png", bytes: 100, source: photo, retry: null, error: null };
    expect(list.getSnapshot()).toMatchObject([{ ...known, status: "uploading", media_type: "image/png", sent: 0, file: null }]);
    await settled();
    files.last.progress(60);
    expect(item(0)).toMatchObject({ status: "uploading", sent: 60 });
    files.last.breakOff();
    expect(item(0)).toMatchObject({ status: "retrying", sent: 0, retry: { error: { code: "NO_ANSWER" } } });
    await browser.clock.advance(1_000);
    expect(item(0)).toMatchObject({ status: "uploading", retry: null });
    files.last.answer();
    await settled();
    const uploaded = { file_id: "file-2", name: "photo.png", media_type: "image/webp", bytes: 100 };
    expect(item(0)).toEqual({ ...known, key: item(0).key, status: "done", media_type: "image/webp", sent: 100, file: uploaded });
    const before = changes;
    end();
    list.clear();
    expect(list.getSnapshot()).toEqual([]);
    expect(changes).toBe(before);
  });

  it("uploads three at once, in order", async () => {
    list.add(some(5));
    await settled();
    expect(states()).toEqual(["uploading", "uploading", "uploading", "waiting", "waiting"]);
    files.uploads[1]?.answer();
    await settled();
    expect(states()).toEqual(["uploading", "done", "uploading", "uploading", "waiting"]);
    files.uploads[0]?.refuse(403, "FORBIDDEN");
    await settled();
    expect(states()).toEqual(["failed", "done", "uploading", "uploading", "uploading"]);
    expect(item(0).error?.code).toBe("FORBIDDEN");
    expect(files.uploads.map(({ request }) => request.file.name)).toEqual(["1.txt", "2.txt", "3.txt", "4.txt", "5.txt"]);
  });

  it("begins a failed one again", async () => {
    list.add([{ ...file(1), size: 1_001 }]);
    await settled();
    expect(item(0)).toMatchObject({ status: "failed", error: { code: "MESSAGE_TOO_LARGE" } });
    expect(files.uploads).toEqual([]);
    list.add([file(2)]);
    await settled();
    files.last.unreadable();
    await settled();
    list.retry(item(1).key);
    list.retry("unknown");
    expect(item(1)).toMatchObject({ status: "uploading", error: null });
    await settled();
    files.last.answer();
    await settled();
    expect(states()).toEqual(["failed", "done"]);
    list.retry(item(1).key);
    expect(states()).toEqual(["failed", "done"]);
  });

  it("ends the upload of one that is removed, and begins another", async () => {
    list.add(some(4));
    await settled();
    list.remove(item(0).key);
    await settled();
    expect(files.uploads.map(({ isAborted }) => isAborted)).toEqual([true, false, false, false]);
    expect(states()).toEqual(["uploading", "uploading", "uploading"]);
    list.clear();
    await settled();
    expect(files.uploads.every(({ isAborted }) => isAborted)).toBe(true);
    expect(list.getSnapshot()).toEqual([]);
  });

  it("takes as many files as a message may name, and one more once there is room", async () => {
    files.isAutomatic = true;
    list.add(some(16));
    list.add([file(17)]);
    await browser.clock.advance(100);
    expect(states()).toEqual([...Array.from({ length: 16 }, () => "done"), "failed"]);
    expect(item(16).error?.code).toBe("TOO_MANY_FILES");
    list.retry(item(16).key);
    expect(item(16)).toMatchObject({ status: "failed", error: { code: "TOO_MANY_FILES" } });
    list.remove(item(3).key);
    list.retry(item(15).key);
    await browser.clock.advance(100);
    expect(states()).toEqual(Array.from({ length: 16 }, () => "done"));
    expect(files.uploads).toHaveLength(17);
  });

  it("has a file once that was added twice", async () => {
    files.isAutomatic = true;
    const same = { ...file(1), sha256: "same" };
    list.add([same, { ...same }, { ...same, name: "another name.txt" }]);
    await browser.clock.advance(100);
    expect(list.getSnapshot().map(({ name }) => name)).toEqual(["1.txt", "another name.txt"]);
    list.remove(item(0).key);
    list.add([same]);
    await browser.clock.advance(100);
    expect(list.getSnapshot().map(({ name }) => name)).toEqual(["another name.txt", "1.txt"]);
  });

  it("uploads no file as another user that it was given before", async () => {
    list.add(some(5));
    await settled();
    tab.token = tokenFor("bob");
    client.forceReconnect();
    await browser.clock.advance(10_000);
    expect(list.getSnapshot().map(({ error }) => error?.code)).toEqual(Array.from({ length: 5 }, () => "USER_CHANGED"));
    expect(files.uploads).toHaveLength(3);
    list.retry(item(4).key);
    await settled();
    expect(files.last.request).toMatchObject({ file: { name: "5.txt" }, headers: { Authorization: `Bearer ${tokenFor("bob")}` } });
  });

  it("keeps nothing of files that it does not have any more", async () => {
    files.isAutomatic = true;
    const sets = vi.spyOn(Map.prototype, "set");
    const two: FakeFile[] = [{ ...file(1), sha256: "one" }, { ...file(2), sha256: "two" }];
    list.add(two);
    await browser.clock.advance(100);
    const kept = sets.mock.contexts.find((_, index) => sets.mock.calls[index]?.[1] === "one 1.txt") as Map<string, string>;
    sets.mockRestore();
    expect(kept.size).toBe(2);
    list.remove(item(0).key);
    expect([...kept.values()]).toEqual(["two 2.txt"]);
    list.clear();
    expect(kept.size).toBe(0);
  });

  it("takes over files of before, each once", () => {
    const old = { file_id: "file-9", name: "old.pdf", media_type: "application/pdf", bytes: 12 };
    list.restore([old, old]);
    expect(list.getSnapshot()).toMatchObject([{ status: "done", name: "old.pdf", bytes: 12, sent: 12, source: null, file: old }]);
    list.remove(item(0).key);
    expect(list.getSnapshot()).toEqual([]);
  });
});
