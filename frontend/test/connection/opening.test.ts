import { describe, expect, it } from "vitest";
import { Browser } from "../support/browser.js";
import { connected } from "../support/connected.js";
import { tokenFor } from "../support/server.js";

describe("opening", () => {
  it("reads the configuration, obtains a ticket and connects, before the first message", async () => {
    const { browser, client, tab } = await connected();
    expect(browser.server.requests.map(({ method, url }) => `${method} ${url}`)).toEqual([
      "GET https://page.example/ws/config",
      "POST https://page.example/ws/ticket",
    ]);
    const [socket] = browser.server.sockets;
    expect(socket?.url).toMatch(/^wss:\/\/page\.example\/ws\?ticket=ticket-\d+$/);
    expect(socket?.url).not.toContain(tokenFor("alice"));
    expect(socket?.protocols).toEqual(["netra.v2", "netra.v1"]);
    expect(tab.tokensGiven).toBe(1);
    expect(client.getSnapshot()).toMatchObject({ status: "CONNECTED", isConnected: true, lastError: null });
    expect(client.getSnapshot().config?.connection_limits.max_message_rate).toBe(60);
    expect(client.getSnapshot().session).toMatchObject({ user_id: "alice", verdict: "new" });
  });

  it.each([
    ["wss://api.example/ws", "https://api.example/ws/config"],
    ["ws://localhost:8000/ws/", "http://localhost:8000/ws/config"],
    ["https://api.example", "https://api.example/ws/config"],
    ["/backend/ws", "https://page.example/backend/ws/config"],
  ])("finds the server from %s", async (url, config) => {
    const browser = new Browser();
    await browser.tab().open({ url });
    expect(browser.server.requests[0]?.url).toBe(config);
  });

  it("passes the token as a subprotocol if the server has no tickets", async () => {
    const browser = new Browser();
    browser.server.features = { ...browser.server.features, tickets: false };
    await browser.tab().open();
    const [, , jwt] = browser.server.sockets[0]?.protocols ?? [];
    expect(Buffer.from(jwt?.replace("jwt.", "") ?? "", "base64url").toString()).toBe(tokenFor("alice"));
  });

  it("reports AUTH_REQUIRED if the server requires a token and there is no getToken", async () => {
    const browser = new Browser();
    const client = await browser.tab().open({ getToken: undefined });
    expect(client.getSnapshot()).toMatchObject({ status: "ERROR", lastError: { code: "AUTH_REQUIRED" } });
    expect(browser.server.sockets).toHaveLength(0);
  });

  it("shows the reason of a rejection, and does not retry after 400 and 403", async () => {
    for (const status of [400, 403]) {
      const browser = new Browser();
      const body = { code: "ORIGIN_NOT_ALLOWED", error: "No.", timestamp: 1, recoverable: false, help: "Configure it." };
      browser.server.answers = [{ status, body: JSON.stringify({ type: "error", payload: body, ...body }) }];
      const client = await browser.tab().open();
      await browser.clock.advance(600_000);
      expect(browser.server.requests).toHaveLength(1);
      expect(client.getSnapshot().status).toBe("ERROR");
      expect(client.getSnapshot().lastError).toEqual(body);
    }
  });

  it("retries once with a fresh token after 401, and then stops", async () => {
    const browser = new Browser();
    const tab = browser.tab();
    const tokens = ["alice", "alice", "alice"].map(tokenFor);
    tab.token = () => Promise.resolve(tokens.shift() ?? "");
    const refusal = { status: 401, body: "{}" };
    const http = browser.server.http;
    let tickets = 0;
    Object.assign(browser.server, {
      http: (request: Parameters<typeof http>[0]) => {
        if (!request.url.endsWith("/ticket")) return http(request);
        tickets += 1;
        return Promise.resolve({ retryAfter: null, ...refusal });
      },
    });
    const client = await tab.open();
    await browser.clock.advance(600_000);
    expect(tickets).toBe(2);
    expect(client.getSnapshot()).toMatchObject({ status: "ERROR", lastError: { code: "HTTP_401" } });
  });

  it("does not use the token of another user for a ticket of the previous user", async () => {
    const browser = new Browser();
    const tab = browser.tab();
    const users = ["alice", "bob"];
    tab.token = () => Promise.resolve(tokenFor(users.shift() ?? "bob"));
    const { http } = browser.server;
    const asked: string[] = [];
    (browser.server as { http: typeof http }).http = (request) => {
      const token = request.headers["Authorization"];
      if (token === undefined) return Promise.resolve(http(request));
      asked.push(token === `Bearer ${tokenFor("alice")}` ? "alice" : "bob");
      return asked.length === 1
        ? Promise.resolve({ status: 401, body: "", retryAfter: null })
        : http(request);
    };
    const client = await tab.open();
    expect(client.getSnapshot()).toMatchObject({ status: "RECONNECTING", lastError: { code: "USER_CHANGED" } });
    await browser.clock.advance(2_000);
    expect(client.getSnapshot()).toMatchObject({ isConnected: true, session: { user_id: "bob", verdict: "new" } });
    expect(asked).toEqual(["alice", "bob"]);
  });
});
