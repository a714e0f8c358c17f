/** The hooks for files: uploads of a component or of a page, and the address of a file in the page. */

import { act, StrictMode, type ReactNode } from "react";
import { createRoot, type Root } from "react-dom/client";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import type { UploadList } from "../../src/index.js";
import { EnhancedWebSocketProvider, useFileUrl, useNetra, useNetraClient, useUploads, type Uploads } from "../../src/react/index.js";
import { Browser, type Tab } from "../support/browser.js";
import { tokenFor } from "../support/server.js";

let browser: Browser;
let tab: Tab;
let root: Root;
let page: HTMLElement;

const FILES = [
  { name: "a.txt", type: "text/plain", size: 3 },
  { name: "b.txt", type: "text/plain", size: 4 },
];

beforeEach(() => {
  (globalThis as { IS_REACT_ACT_ENVIRONMENT?: boolean }).IS_REACT_ACT_ENVIRONMENT = true;
  browser = new Browser();
  tab = browser.tab();
  page = document.body.appendChild(document.createElement("div"));
  root = createRoot(page);
});

afterEach(async () => {
  await act(async () => root.unmount());
  page.remove();
  vi.unstubAllGlobals();
});

const pass = (ms = 10): Promise<void> => act(async () => browser.clock.advance(ms));
async function show(content: ReactNode): Promise<void> {
  await act(async () =>
    root.render(
      <StrictMode>
        <EnhancedWebSocketProvider getToken={tab.getToken} ports={tab.ports}>
          {content}
        </EnhancedWebSocketProvider>
      </StrictMode>,
    ),
  );
  await pass();
}

describe("useUploads", () => {
  let uploads: Uploads;
  function Own(): ReactNode {
    uploads = useUploads();
    return uploads.uploads.map(({ name, status }) => `${name} ${status} `);
  }

  it("shows the uploads, and has the ids for a message", async () => {
    browser.server.files.isAutomatic = false;
    await show(<Own />);
    expect([uploads.isUploading, uploads.fileIds]).toEqual([false, []]);
    await act(async () => uploads.add(FILES));
    await pass();
    expect(page.textContent).toBe("a.txt uploading b.txt uploading ");
    expect(uploads.isUploading).toBe(true);
    browser.server.files.uploads[0]?.answer();
    browser.server.files.uploads[1]?.unreadable();
    await pass();
    expect(page.textContent).toBe("a.txt done b.txt failed ");
    expect([uploads.isUploading, uploads.fileIds]).toEqual([false, ["file-1"]]);
    await act(async () => uploads.retry(uploads.uploads[1]?.key ?? ""));
    expect(page.textContent).toBe("a.txt done b.txt uploading ");
    await act(async () => uploads.remove(uploads.uploads[0]?.key ?? ""));
    expect(page.textContent).toBe("b.txt uploading ");
    await act(async () => uploads.clear());
    expect(page.textContent).toBe("");
  });

  it("ends the uploads of a component with it, and not those of a shared list", async () => {
    browser.server.files.isAutomatic = false;
    let shared: UploadList | undefined;
    function Shared(): ReactNode {
      const client = useNetraClient();
      shared ??= client.createUploads();
      useUploads(shared);
      return null;
    }
    await show(<><Own /><Shared /></>);
    await act(async () => uploads.add(FILES.slice(0, 1)));
    await act(async () => shared?.add(FILES.slice(1)));
    await pass();
    await show(null);
    expect(browser.server.files.uploads.map(({ isAborted }) => isAborted)).toEqual([true, false]);
    expect(shared?.getSnapshot()).toMatchObject([{ status: "uploading" }]);
  });
});

describe("useFileUrl", () => {
  const made: Blob[] = [];
  const revoked: string[] = [];
  let answer: () => Promise<Response>;
  const fetched = vi.fn<typeof fetch>();

  beforeEach(() => {
    made.length = 0;
    revoked.length = 0;
    fetched.mockReset().mockImplementation(() => answer());
    vi.stubGlobal("fetch", fetched);
    vi.stubGlobal("URL", Object.assign(class extends URL {}, {
      createObjectURL: (blob: Blob) => `blob:${made.push(blob)}`,
      revokeObjectURL: (url: string) => revoked.push(url),
    }));
  });

  function Shown({ id, type = "image/png" }: { id: string | null; type?: string }): ReactNode {
    const { url, error } = useFileUrl(id === null ? null : { file_id: id, media_type: type });
    return error?.code ?? url;
  }

  it("reads a file with a token, and revokes the address afterwards", async () => {
    answer = () => Promise.resolve(new Response("abc", { headers: { "Content-Type": "image/png; x=1" } }));
    await show(<Shown id="file-1" />);
    const last = fetched.mock.calls.at(-1);
    expect(last?.[0]).toBe("https://page.example/ws/files/file-1");
    expect(last?.[1]).toMatchObject({ headers: { Authorization: `Bearer ${tokenFor("alice")}` }, credentials: "omit" });
    await vi.waitFor(() => expect(page.textContent).toMatch(/^blob:/));
    const url = page.textContent;
    expect(made.at(-1)?.type).toBe("image/png");
    await show(<Shown id={null} />);
    expect(page.textContent).toBe("");
    expect(revoked).toContain(url);
    expect(revoked).toHaveLength(made.length);
  });

  it.each(["text/html", "image/svg+xml", "application/xhtml+xml", ""])("gives %j no type with which a browser would run it", async (type) => {
    answer = () => Promise.resolve(new Response("<script>", { headers: { "Content-Type": type } }));
    await show(<Shown id="file-1" />);
    await vi.waitFor(() => expect(page.textContent).toMatch(/^blob:/));
    expect(made.at(-1)?.type).toBe("application/octet-stream");
  });

  it("takes the bytes that came with an answer, with a safe type too", async () => {
    answer = () => Promise.reject(new TypeError("offline"));
    const bytes = vi.fn((id: string) => (id === "file-1" ? new ArrayBuffer(3) : null));
    function Page({ type }: { type: string }): ReactNode {
      const client = useNetraClient();
      vi.spyOn(client, "fileBytes").mockImplementation(bytes);
      return <Shown id="file-1" type={type} />;
    }
    await show(<Page type="audio/mpeg" />);
    await vi.waitFor(() => expect(made.at(-1)).toMatchObject({ size: 3, type: "audio/mpeg" }));
    await show(<Page type="text/html" />);
    await vi.waitFor(() => expect(made.at(-1)?.type).toBe("application/octet-stream"));
    expect(fetched).not.toHaveBeenCalled();
  });

  it("reports why a file cannot be read", async () => {
    const gone = { code: "FILE_NOT_FOUND", error: "No such file.", timestamp: 0, recoverable: true, help: "" };
    answer = () => Promise.resolve(new Response(JSON.stringify(gone), { status: 404 }));
    await show(<Shown id="file-1" />);
    await vi.waitFor(() => expect(page.textContent).toBe("FILE_NOT_FOUND"));
    answer = () => Promise.resolve(new Response("<html>", { status: 502 }));
    await show(<Shown id="file-2" />);
    await vi.waitFor(() => expect(page.textContent).toBe("HTTP_502"));
    answer = () => Promise.reject(new TypeError("offline"));
    await show(<Shown id="file-3" />);
    await vi.waitFor(() => expect(page.textContent).toBe("NO_ANSWER"));
    tab.token = "";
    await show(<Shown id="file-4" />);
    await vi.waitFor(() => expect(page.textContent).toBe("TOKEN_UNAVAILABLE"));
  });
});

it("has the methods for files in its state", async () => {
  let done: unknown;
  function Page(): ReactNode {
    const netra = useNetra((all) => all);
    done ??= netra.uploadFile(FILES[0] ?? { size: 0, type: "" }).done;
    expect(netra.createUploads().getSnapshot()).toEqual([]);
    return null;
  }
  await show(<Page />);
  expect(await done).toMatchObject({ file_id: "file-1" });
});
