/** The ports of a page, with the locks, channels and fetch of Node, and simulated page events. */

import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it, vi } from "vitest";
import { browserPorts, memoryStorage, type Ports } from "../src/index.js";
import { settle } from "./support/clock.js";

class FakePage extends EventTarget {
  visibilityState = "visible";
}

let ports: Ports;
let page: FakePage;

const never = (): void => expect.unreachable();
const SOON = { timeout: 5_000 }; // ms: a machine may be busy

beforeEach(() => {
  page = new FakePage();
  const storage = memoryStorage();
  vi.stubGlobal("window", page);
  vi.stubGlobal("document", page);
  vi.stubGlobal("location", { href: "https://page.example/chat/" });
  vi.stubGlobal("localStorage", {
    getItem: (name: string) => storage.get(name),
    setItem: (name: string, value: string) => storage.set(name, value),
    removeItem: (name: string) => storage.remove(name),
  });
  vi.stubGlobal("sessionStorage", undefined);
  ports = browserPorts();
});

afterEach(() => vi.unstubAllGlobals());

describe("locks", () => {
  it("are granted one after the other, and never to a cancelled request", async () => {
    const order: string[] = [];
    const first = ports.locks?.request("n", () => order.push("first"), never);
    const second = ports.locks?.request("n", () => order.push("second"), never);
    const third = ports.locks?.request("n", () => order.push("third"), never);
    await vi.waitFor(() => expect(order).toEqual(["first"]), SOON);
    second?.();
    first?.();
    await vi.waitFor(() => expect(order).toEqual(["first", "third"]), SOON);
    third?.();
  });

  it("can be stolen, and the previous holder is notified", async () => {
    const order: string[] = [];
    ports.locks?.request("s", () => order.push("first"), () => order.push("first lost"));
    const second = ports.locks?.request("s", () => order.push("second"), never);
    await vi.waitFor(() => expect(order).toEqual(["first"]), SOON);
    const third = ports.locks?.steal("s", () => order.push("third"), never);
    await vi.waitFor(() => expect(order.toSorted()).toEqual(["first", "first lost", "third"]), SOON);
    third?.();
    await vi.waitFor(() => expect(order.at(-1)).toBe("second"), SOON);
    second?.();
  });
});

describe("channels", () => {
  it("deliver to the other tabs, and not to the sender", async () => {
    const received: unknown[] = [];
    const one = ports.openChannel?.("n", (message) => received.push(["one", message]));
    const two = ports.openChannel?.("n", (message) => received.push(["two", message]));
    one?.post({ a: [1] });
    await vi.waitFor(() => expect(received).toEqual([["two", { a: [1] }]]), SOON);
    one?.close();
    two?.close();
  });
});

let server: Server;
let address: string;

beforeAll(async () => {
  server = createServer((request, response) => {
    if (request.url === "/slow") return;
    if (request.url === "/posted") {
      response.writeHead(202);
      request.setEncoding("utf8");
      request.on("data", (text: string) => response.write(`${request.headers["content-type"]} ${text}`));
      request.on("end", () => response.end());
      return;
    }
    if (request.url === "/cut") {
      response.writeHead(200, { "Content-Type": "text/event-stream", "Content-Length": 100 });
      response.write("data: 1");
      setTimeout(() => response.destroy(), 20);
      return;
    }
    response.writeHead(429, { "Retry-After": "7" });
    response.end(`${request.method} ${request.headers.authorization}`);
  });
  await new Promise<void>((done) => server.listen(0, "127.0.0.1", done));
  address = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
});

afterAll(() => {
  server.closeAllConnections();
  server.close();
});

describe("http", () => {
  it("returns status, body and Retry-After", async () => {
    const request = { method: "POST", url: address, headers: { Authorization: "Bearer x" }, timeout_ms: 1_000 } as const;
    expect(await ports.http(request)).toEqual({ status: 429, body: "POST Bearer x", retryAfter: "7" });
  });

  it("rejects without an answer in time", async () => {
    const request = { method: "GET", url: `${address}/slow`, headers: {}, timeout_ms: 30 } as const;
    await expect(ports.http(request)).rejects.toThrow();
  });
});

describe("a streamed answer", () => {
  type Seen = (readonly [string, ...unknown[]])[];
  const ask = (url: string, more: { method?: "GET" | "POST"; body?: string } = {}): { seen: Seen; cancel: () => void } => {
    const seen: Seen = [];
    const cancel = ports.stream?.(
      { method: "GET", url, headers: { "Content-Type": "application/json" }, ...more },
      {
        head: (...head) => seen.push(["head", ...head]),
        text: (piece) => seen.push(["text", piece]),
        ended: (isComplete) => seen.push(["ended", isComplete]),
      },
    );
    return { seen, cancel: cancel ?? never };
  };
  const ended = (seen: Seen): Promise<void> => vi.waitFor(() => expect(seen.at(-1)?.[0]).toBe("ended"), SOON);
  const text = (seen: Seen): string => seen.filter(([kind]) => kind === "text").map(([, piece]) => piece).join("");

  it("has the same text however its bytes are cut", async () => {
    const bytes = new TextEncoder().encode("data: ä€😀\r\n\r\n");
    for (let at = 0; at <= bytes.length; at += 1) {
      const pieces = [bytes.slice(0, at), bytes.slice(at)].filter(({ length }) => length > 0);
      const body = new ReadableStream<Uint8Array>({
        pull(control) {
          const piece = pieces.shift();
          if (piece === undefined) control.close();
          else control.enqueue(piece);
        },
      });
      vi.stubGlobal("fetch", () => Promise.resolve(new Response(body, { headers: { "Content-Type": "text/event-stream" } })));
      const { seen } = ask("https://page.example/ws/events");
      await ended(seen);
      expect(seen[0]).toEqual(["head", 200, "text/event-stream", null]);
      expect(text(seen)).toBe("data: ä€😀\r\n\r\n");
      expect(seen.at(-1)).toEqual(["ended", true]);
    }
  });

  it("of another type is one text, and nothing after it is cancelled", async () => {
    vi.stubGlobal("fetch", () => Promise.resolve(new Response("{}", { headers: { "Content-Type": "application/json" } })));
    const { seen } = ask("https://page.example/ws/events");
    await ended(seen);
    expect(seen).toEqual([["head", 200, "application/json", null], ["text", "{}"], ["ended", true]]);
    let control: ReadableStreamDefaultController<Uint8Array> | undefined;
    const body = new ReadableStream<Uint8Array>({ start: (given) => void (control = given) });
    vi.stubGlobal("fetch", () => Promise.resolve(new Response(body)));
    const { seen: begun, cancel } = ask("https://page.example/ws/events");
    await settle();
    cancel();
    control?.close();
    await settle();
    expect(begun.map(([kind]) => kind)).toEqual(["head"]);
  });

  it("to a POST can be empty", async () => {
    const { seen } = ask(`${address}/posted`, { method: "POST", body: "{}" });
    await ended(seen);
    expect(seen[0]).toEqual(["head", 202, "", null]);
    expect(text(seen)).toBe("application/json {}");
  });

  it("has a status and Retry-After", async () => {
    const { seen } = ask(address);
    await ended(seen);
    expect(seen[0]).toEqual(["head", 429, "", "7"]);
  });

  it("that is cut, or that does not come, is not complete", async () => {
    const { seen } = ask(`${address}/cut`);
    await ended(seen);
    expect(text(seen)).toBe("data: 1");
    expect(seen.at(-1)).toEqual(["ended", false]);
    const { seen: none } = ask("http://127.0.0.1:1/");
    await ended(none);
    expect(none).toEqual([["ended", false]]);
  });

  it.each([0, 1, 2])("reports nothing after it is cancelled, after %d reports", async (reports) => {
    let answer: (answer: Response) => void = never;
    let control: ReadableStreamDefaultController<Uint8Array> | undefined;
    const body = new ReadableStream<Uint8Array>({ start: (given) => void (control = given) });
    vi.stubGlobal("fetch", () => new Promise<Response>((resolve) => (answer = resolve)));
    const { seen, cancel } = ask("https://page.example/ws/events");
    if (reports === 0) cancel();
    answer(new Response(body, { headers: { "Content-Type": "text/event-stream" } }));
    await settle();
    if (reports === 1) cancel();
    control?.enqueue(new TextEncoder().encode("a"));
    await settle();
    if (reports === 2) cancel();
    control?.enqueue(new TextEncoder().encode("b"));
    control?.close();
    await settle();
    expect(seen.map(([kind]) => kind)).toEqual(["head", "text"].slice(0, reports));
  });
});

describe("the page", () => {
  it("reports when it is visible, online, hidden and shown again", () => {
    const events: string[] = [];
    const cancels = (["online", "visible", "hide", "show"] as const).map((event) =>
      ports.onPage(event, () => events.push(event)),
    );
    page.visibilityState = "hidden";
    page.dispatchEvent(new Event("visibilitychange"));
    page.visibilityState = "visible";
    for (const name of ["visibilitychange", "online", "pagehide", "pageshow"]) page.dispatchEvent(new Event(name));
    expect(events).toEqual(["visible", "online", "hide", "show"]);
    for (const cancel of cancels) cancel();
    page.dispatchEvent(new Event("online"));
    expect(events).toHaveLength(4);
  });

  it("resolves addresses, stores, works without storage, and creates ids", () => {
    expect(ports.resolve("/ws")).toBe("https://page.example/ws");
    expect(ports.resolve("/ws/ticket", "wss://api.example/ws/config")).toBe("wss://api.example/ws/ticket");
    for (const storage of [ports.shared, ports.tab]) {
      storage.set("a", "1");
      expect(storage.get("a")).toBe("1");
      storage.remove("a");
      expect(storage.get("a")).toBeNull();
    }
    expect(ports.uniqueId()).toMatch(/^[0-9a-f]{32}$/);
    expect(ports.uniqueId()).not.toBe(ports.uniqueId());
  });
});
