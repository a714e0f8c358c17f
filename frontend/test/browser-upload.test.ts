// @vitest-environment jsdom

/** The port for uploads, with jsdom's requests and a server of Node. */

import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { afterAll, beforeAll, describe, expect, it, vi } from "vitest";
import { browserPorts, type UploadEvents } from "../src/index.js";

const SOON = { timeout: 5_000 }; // ms: a machine may be busy
const CORS = { "Access-Control-Allow-Origin": "*", "Access-Control-Allow-Headers": "*", "Access-Control-Expose-Headers": "Retry-After" };

let server: Server;
let address: string;
/** The uploads that arrived and are not answered. */
let unanswered = 0;

beforeAll(async () => {
  server = createServer((request, response) => {
    let bytes = 0;
    request.on("data", (piece: Buffer) => {
      bytes += piece.length;
      if (request.url === "/cut") response.destroy();
    });
    request.on("end", () => {
      if (request.url === "/slow" && request.method === "POST") {
        unanswered += 1;
        return;
      }
      response.writeHead(request.method === "POST" ? 429 : 200, { ...CORS, "Retry-After": "7" });
      response.end(`${String(request.headers["x-name"])} ${request.headers["content-type"] ?? ""} ${bytes}`);
    });
  });
  await new Promise<void>((done) => server.listen(0, "127.0.0.1", done));
  address = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
});

afterAll(() => {
  server.closeAllConnections();
  server.close();
});

function begin(path: string, size: number, isReadable = true): { seen: unknown[]; cancel: () => void } {
  const seen: unknown[] = [];
  const events: UploadEvents = {
    progress: (sent) => seen.push(sent),
    ended: (answer) => seen.push(answer),
    unreadable: () => seen.push("unreadable"),
  };
  const file = new Blob(["x".repeat(size)], { type: "text/plain" });
  // jsdom's blobs cannot be read.
  const arrayBuffer = (): Promise<ArrayBuffer> => (isReadable ? Promise.resolve(new ArrayBuffer(1)) : Promise.reject(new Error("gone")));
  Object.assign(file, { slice: () => ({ arrayBuffer }) });
  const headers = { "X-Name": "a", "Content-Type": "image/png" };
  const cancel = browserPorts().upload?.({ url: address + path, headers, file }, events);
  return { seen, cancel: cancel ?? (() => expect.unreachable()) };
}

describe("an upload", () => {
  it("reports its progress and the answer", async () => {
    const { seen } = begin("/", 200_000);
    const answer = { status: 429, body: "a image/png 200000", retryAfter: "7" };
    await vi.waitFor(() => expect(seen.at(-1)).toEqual(answer), SOON);
    expect(seen.at(-2)).toEqual(expect.any(Number));
  });

  it.each([
    ["is cut", "/cut", true, null],
    ["cannot be read", "/cut", false, "unreadable"],
  ])("that %s has no answer", async (_, path, isReadable, end) => {
    const { seen } = begin(path, 10, isReadable);
    await vi.waitFor(() => expect(seen.at(-1)).toBe(end), SOON);
  });

  it("reports nothing after it is cancelled", async () => {
    const { seen, cancel } = begin("/slow", 10);
    await vi.waitFor(() => expect(unanswered).toBe(1), SOON);
    const before = [...seen];
    cancel();
    const other = begin("/", 10);
    await vi.waitFor(() => expect(other.seen.at(-1)).toMatchObject({ status: 429 }), SOON);
    expect(seen).toEqual(before);
  });
});
