/** The ports of a page, with the locks, channels and fetch of Node, and simulated page events. */

import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it, vi } from "vitest";
import { browserPorts, memoryStorage, type Ports } from "../src/index.js";

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

describe("http", () => {
  let server: Server;
  let address: string;

  beforeAll(async () => {
    server = createServer((request, response) => {
      if (request.url === "/slow") return;
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

  it("returns status, body and Retry-After", async () => {
    const request = { method: "POST", url: address, headers: { Authorization: "Bearer x" }, timeout_ms: 1_000 } as const;
    expect(await ports.http(request)).toEqual({ status: 429, body: "POST Bearer x", retryAfter: "7" });
  });

  it("rejects without an answer in time", async () => {
    const request = { method: "GET", url: `${address}/slow`, headers: {}, timeout_ms: 30 } as const;
    await expect(ports.http(request)).rejects.toThrow();
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
