/** Uploads: the request, the limit, attempts that break off, refusals, and the end of each. */

import { beforeEach, describe, expect, it } from "vitest";
import { createClient, RequestError, type NetraClient, type UploadedFile, type UploadOptions, type UploadProgress } from "../../src/index.js";
import { Browser, type Tab } from "../support/browser.js";
import type { FakeFile, FakeFiles } from "../support/files.js";
import { tokenFor } from "../support/server.js";

let browser: Browser;
let tab: Tab;
let client: NetraClient;
let files: FakeFiles;

const PHOTO: FakeFile = { name: "photo.png", type: "image/png", size: 100 };

beforeEach(async () => {
  browser = new Browser();
  files = browser.server.files;
  files.isAutomatic = false;
  tab = browser.tab();
  client = await tab.open();
});

/** An upload, its progress, and the file or the code of its error. */
class Watched {
  readonly progress: UploadProgress[] = [];
  readonly #upload;
  result: UploadedFile | string | null = null;

  constructor(file: FakeFile, options: UploadOptions) {
    this.#upload = client.uploadFile(file, { ...options, onProgress: (progress) => this.progress.push(progress) });
    this.#upload.done.then(
      (uploaded) => (this.result = uploaded),
      (error: unknown) => (this.result = error instanceof RequestError ? error.body.code : String(error)),
    );
  }

  /** Milliseconds until the next attempt, and why the last one failed. */
  get retry(): readonly [number, string] | null {
    const retry = this.progress.at(-1)?.retry ?? null;
    return retry && [retry.at - browser.clock.now, retry.error.code];
  }

  abort(): void {
    this.#upload.abort();
  }
}

const settled = (): Promise<void> => browser.clock.advance(0);
const begin = async (file: FakeFile = PHOTO, options: UploadOptions = {}): Promise<Watched> => {
  const upload = new Watched(file, options);
  await settled();
  return upload;
};
const after = async (run: () => void): Promise<void> => {
  run();
  await settled();
};

describe("an upload", () => {
  it("sends the content with its name and a token, and resolves to the file", async () => {
    const [listeners, timers] = [tab.listeners, browser.clock.waiting];
    const file = { ...PHOTO, name: "Grüße (1).png", media_type: "image/webp" };
    const upload = await begin(file);
    expect(files.last.request).toEqual({
      url: "https://page.example/ws/files",
      headers: {
        Authorization: `Bearer ${tokenFor("alice")}`,
        "Content-Type": "image/png",
        "Content-Disposition": "attachment; filename*=UTF-8''Gr%C3%BC%C3%9Fe%20%281%29.png",
      },
      file,
    });
    files.last.progress(40);
    files.last.progress(5_000); // a browser may count more than the content
    expect(upload.progress).toEqual([
      { sent: 40, total: 100, retry: null },
      { sent: 100, total: 100, retry: null },
    ]);
    expect(upload.result).toBeNull();
    await after(() => files.last.answer());
    const { name, media_type } = file;
    expect(upload.result).toEqual({ file_id: "file-1", name, media_type, bytes: 100, sha256: "digest-1" });
    await after(() => upload.abort());
    expect([tab.listeners, browser.clock.waiting]).toEqual([listeners, timers]);
  });

  it("of a blob has no type and no name, unless the application gives it one", async () => {
    await begin({ size: 1, type: "" });
    expect(Object.keys(files.last.request.headers)).toEqual(["Content-Type", "Authorization"]);
    expect(files.last.request.headers["Content-Type"]).toBe("application/octet-stream");
    await begin({ size: 1, type: "" }, { name: "a\ud800b" });
    expect(files.last.request.headers["Content-Disposition"]).toBe("attachment; filename*=UTF-8''a%EF%BF%BDb");
  });

  it("is measured against the server's limit before it begins", async () => {
    const fits = await begin({ ...PHOTO, size: 1_000 });
    expect(files.uploads).toHaveLength(1);
    await after(() => files.last.answer());
    expect(fits.result).toMatchObject({ bytes: 1_000 });
    expect((await begin({ ...PHOTO, size: 1_001 })).result).toBe("MESSAGE_TOO_LARGE");
    expect(files.uploads).toHaveLength(1);
  });

  it("is refused by a server without files, and in a page without uploads", async () => {
    const { upload: _, ...without } = tab.ports;
    client = createClient({}, without);
    expect((await begin()).result).toBe("NOT_SUPPORTED");
    browser.server.limits = { ...browser.server.limits, max_file_size: undefined };
    client = await new Browser(browser).tab().open();
    expect((await begin()).result).toBe("NOT_SUPPORTED");
    expect(files.uploads).toEqual([]);
  });

  it("begins before the configuration is known, without a token if there is none", async () => {
    client = createClient({ url: "https://api.example/ws" }, tab.ports);
    await begin({ ...PHOTO, size: 5_000 });
    expect(files.last.request).toMatchObject({ url: "https://api.example/ws/files" });
    expect(files.last.request.headers).not.toHaveProperty("Authorization");
  });

  it("uses the address that the server names", async () => {
    browser.server.endpoints = { files: "/behind/files" };
    client = await new Browser(browser).tab().open();
    await begin();
    expect(files.last.request.url).toBe("https://page.example/behind/files");
  });
});

describe("an upload that breaks off", () => {
  it("is sent again as a whole, after a delay that grows", async () => {
    browser.chance = 0.999;
    const upload = await begin();
    const waits: number[] = [];
    for (let attempt = 1; attempt < 8; attempt += 1) {
      files.last.progress(60);
      files.last.breakOff();
      const [wait = 0, code] = upload.retry ?? [];
      expect(code).toBe("NO_ANSWER");
      expect(upload.progress.at(-1)).toMatchObject({ sent: 0, total: 100 });
      waits.push(Math.round(wait / 1000));
      await browser.clock.advance(wait - 1);
      expect(files.uploads).toHaveLength(attempt);
      await browser.clock.advance(1);
      expect(files.uploads).toHaveLength(attempt + 1);
      expect(upload.retry).toBeNull();
    }
    expect(waits).toEqual([1, 2, 4, 8, 16, 30, 30]);
    expect(new Set(files.uploads.map(({ request }) => request.file))).toEqual(new Set([PHOTO]));
    await after(() => files.last.answer());
    expect(upload.result).toMatchObject({ file_id: "file-8" });
  });

  it("fails after eight attempts", async () => {
    const upload = await begin();
    for (let attempt = 0; attempt < 8; attempt += 1) {
      expect(upload.result).toBeNull();
      files.last.progress(60);
      files.last.breakOff();
      await browser.clock.advance(30_000);
    }
    expect(upload.result).toBe("NO_ANSWER");
    expect(files.uploads).toHaveLength(8);
  });

  it("waits for the network as long as it takes, and begins at once when that is back", async () => {
    const upload = await begin();
    for (let attempt = 0; attempt < 20; attempt += 1) {
      await after(() => files.last.breakOff());
      await browser.clock.advance(30_000);
    }
    expect(files.uploads).toHaveLength(21);
    files.last.breakOff();
    tab.page("online");
    await settled();
    expect(files.uploads).toHaveLength(22);
    tab.page("visible"); // one is under way
    await settled();
    expect(files.uploads).toHaveLength(22);
    await after(() => files.last.answer());
    expect(upload.result).toMatchObject({ bytes: 100 });
  });

  it("is given up after 90 seconds without progress, and sent again", async () => {
    const upload = await begin();
    await browser.clock.advance(89_000);
    files.last.progress(1);
    await browser.clock.advance(89_000);
    expect(files.last.isAborted).toBe(false);
    await browser.clock.advance(1_000);
    expect(files.uploads[0]?.isAborted).toBe(true);
    expect(upload.retry?.[1]).toBe("NO_ANSWER");
    await browser.clock.advance(1_000);
    expect(files.uploads).toHaveLength(2);
  });

  it("of a file that was changed or removed meanwhile fails", async () => {
    const upload = await begin();
    await after(() => files.last.unreadable());
    expect(upload.result).toBe("FILE_UNREADABLE");
  });
});

describe("an upload that the server refuses", () => {
  it("waits for the end of a rate limit, however often", async () => {
    const upload = await begin();
    for (let attempt = 0; attempt < 10; attempt += 1) {
      files.last.refuse(429, "RATE_LIMIT_EXCEEDED", "50");
      expect(upload.retry).toEqual([50_000, "RATE_LIMIT_EXCEEDED"]);
      tab.page("online"); // no reason to be earlier
      await browser.clock.advance(50_000);
    }
    await after(() => files.last.answer());
    expect(upload.result).toMatchObject({ file_id: "file-11" });
  });

  it("is sent again while the server is not available", async () => {
    const upload = await begin();
    files.last.refuse(503, "SERVICE_UNAVAILABLE");
    expect(upload.retry?.[1]).toBe("SERVICE_UNAVAILABLE");
    await browser.clock.advance(1_000);
    await after(() => files.last.answer({ status: 502, body: "<html>" }));
    expect(upload.retry?.[1]).toBe("HTTP_502");
    await browser.clock.advance(2_000);
    await after(() => files.last.answer({ body: "{}" }));
    expect(upload.retry?.[1]).toBe("BAD_ANSWER");
  });

  it.each([
    [413, "MESSAGE_TOO_LARGE"],
    [403, "ORIGIN_NOT_ALLOWED"],
    [400, "BAD_REQUEST"],
    [429, "QUEUE_FULL"],
  ])("with %i fails at once with its code", async (status, code) => {
    const upload = await begin();
    await after(() => files.last.refuse(status, code));
    expect(upload.result).toBe(code);
    await browser.clock.advance(60_000);
    expect(files.uploads).toHaveLength(1);
  });

  it("asks for a fresh token once", async () => {
    const upload = await begin();
    tab.token = tokenFor("alice", 2_000_000_001);
    await after(() => files.last.refuse(401, "TOKEN_EXPIRED"));
    expect(files.last.request.headers["Authorization"]).toBe(`Bearer ${tokenFor("alice", 2_000_000_001)}`);
    expect(upload.result).toBeNull();
    await after(() => files.last.refuse(401, "TOKEN_EXPIRED"));
    expect(upload.result).toBe("TOKEN_EXPIRED");
    expect(files.uploads).toHaveLength(2);
  });

  it("waits for a token, and is never sent as another user", async () => {
    tab.token = () => Promise.reject(new Error("offline"));
    const upload = await begin();
    expect(upload.retry?.[1]).toBe("TOKEN_UNAVAILABLE");
    tab.token = tokenFor("alice");
    await browser.clock.advance(1_000);
    files.last.breakOff();
    tab.token = tokenFor("bob");
    await browser.clock.advance(2_000);
    expect(files.uploads).toHaveLength(1);
    expect(upload.result).toBe("USER_CHANGED");
  });
});

describe("a callback of the application", () => {
  it("that throws does not stop the upload", async () => {
    const upload = client.uploadFile(PHOTO, {
      onProgress: () => {
        throw new Error("the application's own");
      },
    });
    await settled();
    files.last.breakOff();
    await expect(browser.clock.advance(0)).rejects.toThrow("the application's own");
    await expect(browser.clock.advance(1_000)).rejects.toThrow("the application's own");
    await settled();
    files.last.answer();
    expect(await upload.done).toMatchObject({ file_id: "file-2" });
  });

  it("that throws does not stop the other uploads of a list, nor its other listeners", async () => {
    const list = client.createUploads();
    let isFaulty = true;
    list.subscribe(() => {
      if (isFaulty) throw new Error("the application's own");
    });
    let changes = 0;
    list.subscribe(() => (changes += 1));
    list.add([PHOTO]);
    expect(changes).toBe(1);
    await expect(browser.clock.advance(0)).rejects.toThrow("the application's own");
    isFaulty = false;
    await settled();
    files.last.answer();
    await settled();
    expect(list.getSnapshot().map(({ status }) => status)).toEqual(["done"]);
  });

  it("may abort the upload that broke off, and no timer is left", async () => {
    const timers = browser.clock.waiting;
    const upload = client.uploadFile(PHOTO, { onProgress: ({ retry }) => retry !== null && upload.abort() });
    const result = upload.done.catch((error: unknown) => error);
    await settled();
    files.last.breakOff();
    expect(await result).toMatchObject({ body: { code: "ABORTED" } });
    expect(browser.clock.waiting).toBe(timers);
  });
});

describe("the end of an upload", () => {
  it.each([
    ["abort", "ABORTED", (upload: Watched) => upload.abort()],
    ["close", "CLOSED", () => client.close()],
  ])("by %s ends its request and all its timers", async (_, code, end) => {
    const [listeners, timers] = [tab.listeners, browser.clock.waiting];
    const [sending, waiting] = [await begin(), await begin()];
    files.last.breakOff();
    await after(() => end(sending));
    await after(() => end(waiting));
    expect([sending.result, waiting.result]).toEqual([code, code]);
    expect(files.uploads.map(({ isAborted }) => isAborted)).toEqual([true, true]);
    expect([tab.listeners, browser.clock.waiting]).toEqual(code === "CLOSED" ? [0, 0] : [listeners, timers]);
    await browser.clock.advance(60_000);
    expect(files.uploads).toHaveLength(2);
  });

  it("by abort may come while its token is asked for", async () => {
    let give: (token: string) => void = () => undefined;
    tab.token = () => new Promise((resolve) => (give = resolve));
    const upload = await begin();
    await after(() => upload.abort());
    await after(() => give(tokenFor("alice")));
    expect(upload.result).toBe("ABORTED");
    expect(files.uploads).toEqual([]);
  });

  it("comes with another user, and there is none after `close`", async () => {
    const upload = await begin();
    tab.token = tokenFor("bob");
    client.forceReconnect();
    await browser.clock.advance(10);
    expect(upload.result).toBe("USER_CHANGED");
    client.close();
    expect((await begin()).result).toBe("CLOSED");
    expect(files.uploads).toHaveLength(1);
  });
});

describe("a file of the server", () => {
  it("is read with a token, or with a ticket for that file in the address", async () => {
    expect(await client.fileRequest("file 1")).toEqual({
      url: "https://page.example/ws/files/file%201",
      headers: { Authorization: `Bearer ${tokenFor("alice")}` },
    });
    const before = browser.server.requests.length;
    expect(await client.fileAddress("file 1")).toMatch(/^https:\/\/page\.example\/ws\/files\/file%201\?ticket=ticket-\d+$/);
    expect(browser.server.requests.slice(before)).toMatchObject([
      {
        method: "POST",
        url: "https://page.example/ws/ticket",
        headers: { Authorization: `Bearer ${tokenFor("alice")}`, "Content-Type": "application/json" },
        body: '{"file_id":"file 1"}',
      },
    ]);
  });

  it("may be refused", async () => {
    const gone = { code: "FILE_NOT_FOUND", error: "No such file.", timestamp: 0, recoverable: true, help: "" };
    browser.server.answers = [{ status: 401 }, { status: 404, body: JSON.stringify(gone) }];
    await expect(client.fileAddress("file-1")).rejects.toThrow(new RequestError(gone));
    browser.server.answers = [{ body: "{}" }];
    await expect(client.fileAddress("file-1")).rejects.toThrow("BAD_ANSWER");
    tab.token = "";
    await expect(client.fileRequest("file-1")).rejects.toThrow("TOKEN_UNAVAILABLE");
  });
});
