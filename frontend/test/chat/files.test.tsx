/** Files in the chat page: chosen, pasted, dropped, uploaded, sent, kept, and shown. */

import { act } from "react";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import type { Browser } from "../support/browser.js";
import { ChatPage } from "../support/chat.js";
import type { FakeFiles, FakeUpload } from "../support/files.js";
import { stubLayers } from "../support/layers.js";

vi.mock("../../pages/chat/markdown/Markdown.tsx", () => ({ Markdown: ({ text }: { text: string }) => text }));

const source = new URL("../../pages/shared/userData.ts", import.meta.url).pathname;
const { forgetUser } = (await import(/* @vite-ignore */ source)) as { forgetUser: (user: string) => void };

let page: ChatPage;
let files: FakeFiles;
/** What the server answers when a file is read. */
let read: () => Promise<Response>;
let followed: string[];

const image = (name = "photo.png", size = 100): File => new File(["x".repeat(size)], name, { type: "image/png" });
const text = (name = "notes.txt", size = 10): File => new File(["x".repeat(size)], name, { type: "text/plain" });

async function open(setUp: (browser: Browser) => void = () => undefined): Promise<void> {
  page = new ChatPage();
  files = page.browser.server.files;
  files.isAutomatic = false;
  setUp(page.browser);
  await page.show();
}

/** Another page with the storage of this one. */
async function reload(setUp?: (browser: Browser) => void): Promise<void> {
  await page.close();
  await open(setUp);
}

beforeEach(async () => {
  localStorage.clear();
  sessionStorage.clear();
  stubLayers();
  followed = [];
  read = () => Promise.resolve(new Response("x", { headers: { "Content-Type": "image/png" } }));
  let made = 0;
  Object.assign(URL, { createObjectURL: () => `blob:${(made += 1)}`, revokeObjectURL: () => undefined });
  vi.spyOn(globalThis, "fetch").mockImplementation(() => read());
  vi.spyOn(HTMLAnchorElement.prototype, "click").mockImplementation(function follow(this: HTMLAnchorElement) {
    followed.push(`${this.href} as ${this.download}`);
  });
  await open();
});

afterEach(async () => {
  await page.close();
  forgetUser("alice");
  vi.restoreAllMocks();
  vi.useRealTimers();
});

async function choose(...chosen: File[]): Promise<void> {
  const [input] = page.all<HTMLInputElement>('input[type="file"]');
  if (input === undefined) throw new Error("there is no input");
  Object.defineProperty(input, "files", { value: chosen, configurable: true });
  await act(async () => input.dispatchEvent(new Event("change", { bubbles: true })));
  await page.pass();
}

/** Lets an upload end. */
async function end(run: (upload: FakeUpload) => void, index = files.uploads.length - 1): Promise<void> {
  const upload = files.uploads[index];
  if (upload === undefined) throw new Error(`there is no upload ${index}`);
  await act(async () => run(upload));
  await page.pass();
}

async function uploaded(...chosen: File[]): Promise<void> {
  for (const one of chosen) {
    await choose(one);
    await end((upload) => upload.answer());
  }
}

async function fire(event: Event, more: object, target: EventTarget = page.box): Promise<boolean> {
  Object.assign(event, more);
  await act(async () => target.dispatchEvent(event));
  await page.pass();
  return event.defaultPrevented;
}

const paste = (pasted: readonly File[], types: readonly string[] = ["Files"], target?: EventTarget): Promise<boolean> =>
  fire(new Event("paste", { bubbles: true, cancelable: true }), { clipboardData: { files: pasted, types } }, target);

const drag = (kind: string, dropped: readonly File[] = [], more: object = {}): Promise<boolean> => {
  const items = dropped.map((one) => ({ webkitGetAsEntry: () => ({ isDirectory: one.name === "folder" }), getAsFile: () => one }));
  const dataTransfer = { types: ["Files"], files: dropped, items, dropEffect: "none" };
  return fire(new Event(kind, { bubbles: true, cancelable: true }), { dataTransfer, relatedTarget: null, ...more }, document.body);
};

const names = (): string[] => page.texts(".upload .file-name");
const states = (): string[] => page.texts(".upload .file-text > :last-child, .upload .note").filter((one) => one !== "");
const attachments = (): unknown[] => page.browser.server.of("user_message").map(({ payload }) => payload.attachments);
const send = (): HTMLButtonElement => page.button("Send");

describe("a file that is chosen", () => {
  it("is uploaded with its progress, sent with the message, and shown in it", async () => {
    expect(page.button("Attach files").type).toBe("button");
    expect(send().disabled).toBe(true);
    await choose(image(), text());
    expect(names()).toEqual(["photo.png", "notes.txt"]);
    await end((upload) => upload.progress(40), 0);
    expect(states()).toEqual(["40 % of 100 bytes", "0 % of 10 bytes"]);
    expect(page.all<HTMLProgressElement>("progress").map(({ value }) => value)).toEqual([40, 0]);
    expect(page.all("progress")[0]?.getAttribute("aria-label")).toBe("Upload of photo.png");
    expect(page.texts("[role=status].only-read")).toContain("0 of 2 files are uploaded.");
    for (const index of [0, 1]) await end((upload) => upload.answer(), index);
    expect(states()).toEqual(["PNG image, 100 bytes", "Text, 10 bytes"]);
    expect(page.texts("[role=status].only-read")).toContain("2 of 2 files are uploaded.");
    expect(page.all(".preview img")).toHaveLength(1);
    await page.say("Look");
    expect(attachments()).toEqual([["file-1", "file-2"]]);
    expect(names()).toEqual([]);
    expect(page.texts(".bubble")).toEqual(["Look"]);
    expect(page.button("Show photo.png larger")).toBeDefined();
    expect(page.texts(".message.user .file-card .file-name")).toEqual(["notes.txt"]);
  });

  it("can be removed, and ends its upload", async () => {
    await choose(image());
    await page.click("Remove photo.png");
    expect(names()).toEqual([]);
    expect(files.last.isAborted).toBe(true);
    expect(send().disabled).toBe(true);
  });

  it("is sent without a text as its name, which is not shown twice", async () => {
    await uploaded(image(), text());
    expect(send().disabled).toBe(false);
    await page.click("Send");
    expect(page.browser.server.contents).toEqual(["photo.png, notes.txt"]);
    expect(page.texts(".bubble")).toEqual([]);
  });

  it("breaks off and begins again by itself, and by the user if that fails", async () => {
    await choose(text());
    await end((upload) => upload.breakOff());
    expect(states()).toContain("The upload broke off and begins again");
    await page.pass(1_000);
    await end((upload) => upload.refuse(429, "RATE_LIMIT_EXCEEDED", "30"));
    expect(states()).toContain("Continues in a moment");
    await page.pass(30_000);
    await end((upload) => upload.refuse(403, "FORBIDDEN"));
    expect(states()).toContain("You may not do this. Ask an administrator for the permission.");
    expect(page.texts("[role=status].only-read").join()).toContain("notes.txt: You may not do this.");
    await page.click("Try notes.txt again");
    await end((upload) => upload.answer());
    expect(files.uploads).toHaveLength(4);
    expect(states()).toEqual(["Text, 10 bytes"]);
  });

  it("that cannot be uploaded is refused in plain words, and not left out of the message", async () => {
    await choose(text("large.txt", 1_001), text("gone.txt"), text("larger.txt", 2_500));
    await end((upload) => upload.unreadable());
    expect(states()).toEqual([
      "This file is too large: 1,001 bytes, at most 1,000 bytes are allowed.",
      "This file was changed or removed. Choose it again.",
      "This file is too large: 2.5 KB, at most 1 KB are allowed.",
    ]);
    expect(page.has("Try large.txt again")).toBe(false);
    await page.say("Look");
    expect(attachments()).toEqual([]);
    expect(page.texts("#composer-fault")).toEqual(["Remove the files that were not uploaded, or try them again."]);
    expect(page.box.value).toBe("Look");
    await page.click("Remove large.txt");
    await page.click("Remove gone.txt");
    await page.click("Remove larger.txt");
    expect(page.texts("#composer-fault")).toEqual([]);
    await page.press("Enter");
    expect(attachments()).toEqual([undefined]);
  });
});

describe("a message that is sent before its files are uploaded", () => {
  it("waits for them", async () => {
    await choose(image(), text());
    await page.say("Look");
    expect(page.texts(".waiting")[0]).toContain("The message is sent once the files are uploaded");
    expect([page.box.value, send().disabled]).toEqual(["Look", true]);
    await end((upload) => upload.answer(), 1);
    expect(attachments()).toEqual([]);
    await page.type("Look here");
    await end((upload) => upload.answer(), 0);
    expect(page.browser.server.contents).toEqual(["Look here"]);
    expect(attachments()).toEqual([["file-1", "file-2"]]);
    expect([page.box.value, page.texts(".waiting").length, names().length]).toEqual(["", 0, 0]);
  });

  it("can be called back, and stays if one fails", async () => {
    await choose(text());
    await page.say("Look");
    await page.click("Do not send");
    await end((upload) => upload.answer());
    expect(attachments()).toEqual([]);
    await choose(text("other.txt"));
    await page.press("Enter");
    await end((upload) => upload.refuse(403, "FORBIDDEN"));
    expect(attachments()).toEqual([]);
    expect(page.texts(".waiting")).toEqual([]);
    expect(page.texts("#composer-fault")).toEqual(["Remove the files that were not uploaded, or try them again."]);
  });
});

describe("a file that is pasted or dropped", () => {
  it("is attached, unless the clipboard has text or another field has the focus", async () => {
    expect(await paste([image()])).toBe(true);
    expect(await paste([image("copy.png")], ["text/plain", "Files"])).toBe(false);
    expect(await paste([], ["text/plain"])).toBe(false);
    expect(await paste([image("search.png")], ["Files"], page.all(".sidebar input")[0])).toBe(false);
    expect(await paste([image("page.png")], ["Files"], document.body)).toBe(true);
    expect(names()).toEqual(["photo.png", "page.png"]);
  });

  it("is attached wherever it is dropped, and the page shows that it takes it", async () => {
    expect(await drag("dragenter")).toBe(true);
    expect(page.texts(".drop-target")).toEqual(["Drop files to attach them"]);
    await drag("dragleave", [], { relatedTarget: page.box });
    expect(page.texts(".drop-target")).toHaveLength(1);
    await drag("dragleave");
    expect(page.texts(".drop-target")).toEqual([]);
    await drag("dragover");
    expect(await drag("drop", [image(), text("folder"), text()])).toBe(true);
    expect(page.texts(".drop-target")).toEqual([]);
    expect(names()).toEqual(["photo.png", "notes.txt"]);
    expect(await drag("drop", [text("folder")])).toBe(true);
    expect(await drag("dragover", [], { dataTransfer: { types: ["text/plain"] } })).toBe(false);
    expect(await drag("drop", [], { dataTransfer: { types: ["text/plain"] } })).toBe(false);
    expect(names()).toHaveLength(2);
  });

  it("is left to the browser if the server takes no files", async () => {
    await reload(({ server }) => {
      server.limits = { ...server.limits, max_file_size: undefined };
    });
    expect(page.has("Attach files")).toBe(false);
    expect(await paste([image()])).toBe(false);
    expect(await drag("drop", [image()])).toBe(false);
  });
});

describe("a draft", () => {
  it("keeps its uploaded files over a reload, each thread its own", async () => {
    await uploaded(image(), text());
    await choose(text("unfinished.txt"));
    await page.show("other");
    expect(names()).toEqual([]);
    await page.show("t");
    expect(names()).toEqual(["photo.png", "notes.txt", "unfinished.txt"]);
    await reload();
    expect(names()).toEqual(["photo.png", "notes.txt"]);
    await vi.waitFor(() => expect(page.all<HTMLImageElement>(".preview img")[0]?.src).toMatch(/^blob:/));
    await page.click("Remove photo.png");
    await reload();
    expect(names()).toEqual(["notes.txt"]);
    await page.say("Look");
    expect(attachments()).toEqual([["file-2"]]);
    expect(page.texts(".message.user .file-name")).toEqual(["notes.txt"]);
    await reload();
    expect(names()).toEqual([]);
  });

  it("is read as often for a key after other threads were open, and after another client", async () => {
    const readsOfKey = async (): Promise<number> => {
      const reads = vi.spyOn(Storage.prototype, "getItem").mockClear();
      await page.type(`${page.box.value}x`);
      return reads.mock.calls.length;
    };
    await page.type("Look");
    const before = await readsOfKey();
    for (let index = 0; index < 10; index += 1) await page.show(`other-${index}`);
    await page.show("t");
    expect(await readsOfKey()).toBe(before);
    await uploaded(text());
    const withFile = await readsOfKey();
    await reload();
    await page.type("Look");
    expect(await readsOfKey()).toBe(withFile);
    expect(names()).toEqual(["notes.txt"]);
  });

  it("goes on with its uploads while another thread is open", async () => {
    await choose(text(), text("other.txt"));
    await page.show("other");
    await end((upload) => upload.answer(), 0);
    await page.show("third");
    await end((upload) => upload.refuse(403, "FORBIDDEN"), 1);
    await page.show("t");
    expect(page.all(".upload").map(({ className }) => className)).toEqual(["upload done", "upload failed"]);
    await page.click("Remove other.txt");
    await page.show("other");
    await reload();
    expect(names()).toEqual(["notes.txt"]);
  });

  it("gets a changed message with its files when the thread is left", async () => {
    await uploaded(image());
    await page.answered("Look", "I see");
    await page.click("Edit message");
    await page.type("Look again", page.all<HTMLTextAreaElement>(".edit textarea")[0]);
    await page.show("other");
    expect([page.box.value, ...names()]).toEqual([""]);
    await page.show("t");
    expect([page.box.value, ...names()]).toEqual(["Look again", "photo.png"]);
    await reload();
    expect([page.box.value, ...names()]).toEqual(["Look again", "photo.png"]);
  });

  it("says which files the server has deleted since", async () => {
    await uploaded(text());
    await page.type("Look");
    const later = Date.now() + 23 * 3_600_000;
    vi.spyOn(Date, "now").mockImplementation(() => later);
    await reload();
    expect(names()).toEqual([]);
    expect(page.texts(".lost-files")[0]).toContain("Deleted after 24 hours: notes.txt. Add them again.");
    await page.click("OK");
    expect(page.texts(".lost-files")).toEqual([]);
    await reload();
    expect([page.texts(".lost-files").length, page.box.value]).toEqual([0, "Look"]);
  });
});

describe("a message with files", () => {
  it("that was refused keeps them: sent again, put back into the box, and over a reload", async () => {
    await uploaded(image(), text());
    page.browser.server.rejection = { code: "BUDGET_EXCEEDED" };
    await page.say("Look");
    await page.click("Send again");
    expect(attachments()).toEqual([["file-1", "file-2"], ["file-1", "file-2"]]);
    await page.click("Edit");
    expect([page.box.value, ...names()]).toEqual(["Look", "photo.png", "notes.txt"]);
    await page.press("Enter");
    await reload();
    expect(page.texts(".unsent .file-name")).toEqual(["notes.txt"]);
    await page.click("Edit");
    expect([page.box.value, ...names()]).toEqual(["Look", "photo.png", "notes.txt"]);
  });

  it("keeps them when it is edited", async () => {
    await uploaded(image());
    await page.answered("Look", "I see");
    await page.click("Edit message");
    expect(page.all(".edit .thumbnail")).toHaveLength(1);
    const [area] = page.all<HTMLTextAreaElement>(".edit textarea");
    await page.type("Look again", area);
    await page.press("Enter", {}, area);
    expect(attachments()).toEqual([["file-1"], ["file-1"]]);
    expect(page.browser.server.of("user_message")[1]?.payload.replaces).toBeDefined();
  });

  it("without a text is edited and put back without one", async () => {
    await uploaded(text());
    page.browser.server.rejection = { code: "BUDGET_EXCEEDED" };
    await page.click("Send");
    await page.click("Edit");
    expect([page.box.value, ...names()]).toEqual(["", "notes.txt"]);
  });
});

describe("the files of an answer", () => {
  const answer = async (...listed: readonly { name: string; media_type: string; bytes?: number }[]): Promise<void> => {
    await page.say("Make files");
    const { server } = page.browser;
    const { id, session, key } = server.run;
    const attached = listed.map((one, index) => ({ file_id: `made-${index}`, bytes: 2_048, ...one }));
    await act(async () => {
      server.emit(session, "agent_completed", key, {
        run_id: id,
        status: "completed",
        duration_ms: 5,
        attachments: attached.map(({ file_id }) => file_id),
        files: attached,
      });
    });
    await page.pass();
  };

  it("are thumbnails that open, and cards", async () => {
    await answer({ name: "chart.png", media_type: "image/png" }, { name: "report.pdf", media_type: "application/pdf" });
    expect(page.texts(".message.agent .note")).not.toContain("This answer has no text.");
    expect(page.texts(".file-card")).toEqual(["report.pdfPDF, 2 KB"]);
    await vi.waitFor(() => expect(page.all(".thumbnail img")).toHaveLength(1));
    expect(page.all("dialog.image-dialog")).toEqual([]);
    await page.click("Show chart.png larger");
    expect(page.all("dialog.image-dialog")[0]?.hasAttribute("open")).toBe(true);
    expect(page.all<HTMLImageElement>("dialog img")[0]?.alt).toBe("chart.png");
    await page.click("Download chart.png");
    await act(async () => page.all("dialog.image-dialog")[0]?.click());
    expect(page.all("dialog.image-dialog")).toEqual([]);
    await page.click("Download report.pdf");
    expect(followed).toEqual([
      expect.stringMatching(/\/ws\/files\/made-0\?ticket=ticket-\d+ as chart\.png$/),
      expect.stringMatching(/\/ws\/files\/made-1\?ticket=ticket-\d+ as report\.pdf$/),
    ]);
  });

  it("are never shown if they might have scripts, whatever their names say", async () => {
    await answer(
      { name: "photo.png", media_type: "image/svg+xml" },
      { name: "photo.jpg", media_type: "text/html" },
      { name: "", media_type: "application/octet-stream", bytes: 0 },
    );
    expect(page.all(".thumbnail, .message img")).toEqual([]);
    expect(page.texts(".file-card")).toEqual(["photo.pngSVG image, 2 KB", "photo.jpgHTML, 2 KB", "FileFile"]);
  });

  it("are cards if they cannot be shown, and say why they cannot be downloaded", async () => {
    const gone = { code: "FILE_NOT_FOUND", error: "No such file.", timestamp: 0, recoverable: true, help: "" };
    read = () => Promise.resolve(new Response(JSON.stringify(gone), { status: 404 }));
    await answer({ name: "chart.png", media_type: "image/png" });
    await vi.waitFor(() => expect(page.texts(".file-card .file-name")).toEqual(["chart.png"]));
    page.browser.server.answers = [{ status: 404, body: JSON.stringify(gone) }];
    await page.click("Download chart.png");
    expect(page.texts(".file-card .fault")).toEqual(["This file is not available any more."]);
    expect(followed).toEqual([]);
    read = () => Promise.resolve(new Response("not an image", { headers: { "Content-Type": "image/png" } }));
    await answer({ name: "broken.png", media_type: "image/png" });
    await vi.waitFor(() => expect(page.all(".thumbnail img")).toHaveLength(1));
    await act(async () => page.all(".thumbnail img")[0]?.dispatchEvent(new Event("error")));
    expect(page.texts(".file-card .file-name")).toEqual(["chart.png", "broken.png"]);
  });

  it("are not all shown at once if they are many", async () => {
    await answer(...Array.from({ length: 17 }, (_, index) => ({ name: `${index}.txt`, media_type: "text/plain" })));
    expect(page.all(".file-card")).toHaveLength(16);
    await page.click("Show 1 more file");
    expect(page.all(".file-card")).toHaveLength(17);
  });

  it("can be played if they are sounds", async () => {
    read = () => Promise.resolve(new Response("x", { headers: { "Content-Type": "audio/mpeg" } }));
    await answer({ name: "speech.mp3", media_type: "audio/mpeg" });
    await page.click("Play MPEG sound");
    await vi.waitFor(() => expect(page.all<HTMLAudioElement>("audio")[0]?.src).toMatch(/^blob:/));
    read = () => Promise.reject(new TypeError("offline"));
    await answer({ name: "other.mp3", media_type: "audio/mpeg" });
    await page.click("Play MPEG sound");
    await vi.waitFor(() => expect(page.texts(".file-card .fault")).toEqual(["This sound could not be loaded."]));
  });
});
