import { describe, expect, it } from "vitest";
import type { NetraClient } from "../../src/index.js";
import { Browser } from "../support/browser.js";
import { settle } from "../support/clock.js";
import { tokenFor } from "../support/server.js";

const hello = { type: "user_message", payload: { content: "hello" } };

async function connected(): Promise<{ browser: Browser; client: NetraClient; tab: ReturnType<Browser["tab"]> }> {
  const browser = new Browser();
  const tab = browser.tab();
  const client = await tab.open();
  return { browser, client, tab };
}

describe("opening", () => {
  it("asks for the configuration, then a ticket, then connects, before the first message", async () => {
    const { browser, client, tab } = await connected();
    expect(browser.server.requests.map(({ method, url }) => `${method} ${url}`)).toEqual([
      "GET https://page.example/ws/config",
      "POST https://page.example/ws/ticket",
    ]);
    const [socket] = browser.server.sockets;
    expect(socket?.url).toMatch(/^wss:\/\/page\.example\/ws\?ticket=ticket-\d+$/);
    expect(socket?.url).not.toContain(tokenFor("alice"));
    expect(socket?.protocols).toEqual(["netra.v1"]);
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

  it("puts the token among the subprotocols where the server has no tickets", async () => {
    const browser = new Browser();
    browser.server.features = { ...browser.server.features, tickets: false };
    await browser.tab().open();
    const [, jwt] = browser.server.sockets[0]?.protocols ?? [];
    expect(Buffer.from(jwt?.replace("jwt.", "") ?? "", "base64url").toString()).toBe(tokenFor("alice"));
  });

  it("says what is missing where the server asks for a token and there is no getToken", async () => {
    const browser = new Browser();
    const client = await browser.tab().open({ getToken: undefined });
    expect(client.getSnapshot()).toMatchObject({ status: "ERROR", lastError: { code: "AUTH_REQUIRED" } });
    expect(browser.server.sockets).toHaveLength(0);
  });

  it("shows why it is refused, and does not try again after 400 and 403", async () => {
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

  it("tries once more with a fresh token after 401, and then no more", async () => {
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

  it("waits as long as Retry-After says after 429 and 503", async () => {
    for (const status of [429, 503]) {
      const browser = new Browser();
      browser.chance = 0;
      browser.server.answers = [{ status, retryAfter: "40" }];
      const client = await browser.tab().open();
      expect(client.getSnapshot()).toMatchObject({ status: "RECONNECTING", retry: { delay_ms: 40_000, attempt: 1 } });
      await browser.clock.advance(39_900);
      expect(browser.server.requests).toHaveLength(1);
      await browser.clock.advance(200);
      expect(client.getSnapshot().status).toBe("CONNECTED");
    }
  });

  it("backs off exponentially with jitter while there is no answer, to 30 s and for ever", async () => {
    const browser = new Browser();
    browser.chance = 0.999;
    browser.server.isUp = false;
    const client = await browser.tab().open();
    const waits: number[] = [];
    for (let attempt = 0; attempt < 8; attempt += 1) {
      const wait = client.getSnapshot().retry?.delay_ms ?? 0;
      waits.push(Math.round(wait / 1000));
      await browser.clock.advance(wait);
    }
    expect(waits).toEqual([1, 2, 4, 8, 16, 30, 30, 30]);
    browser.server.isUp = true;
    await browser.clock.advance(30_000);
    expect(client.getSnapshot()).toMatchObject({ status: "CONNECTED", lastError: null, retry: null });
  });

  it("gives up after maxReconnectAttempts, until asked", async () => {
    const browser = new Browser();
    browser.server.isUp = false;
    const client = await browser.tab().open({ maxReconnectAttempts: 2 });
    await browser.clock.advance(600_000);
    expect(browser.server.requests).toHaveLength(3);
    expect(client.getSnapshot()).toMatchObject({ status: "ERROR", lastError: { code: "RETRIES_EXHAUSTED" } });
    browser.server.isUp = true;
    client.forceReconnect();
    await browser.clock.advance(10);
    expect(client.getSnapshot().isConnected).toBe(true);
  });

  it("tries at once when the network or the page comes back, but not before Retry-After", async () => {
    const browser = new Browser();
    const tab = browser.tab();
    browser.server.isUp = false;
    browser.chance = 0.999;
    const client = await tab.open();
    await browser.clock.advance(60_000);
    browser.server.isUp = true;
    tab.page("online");
    await browser.clock.advance(10);
    expect(client.getSnapshot().isConnected).toBe(true);

    browser.server.answers = [{ status: 503, retryAfter: "100" }];
    browser.server.socket.drop(1011);
    await browser.clock.advance(2_000);
    tab.page("visible");
    await browser.clock.advance(50_000);
    expect(client.getSnapshot().isConnected).toBe(false);
  });
});

describe("messages", () => {
  it("resolves true once confirmed, and shows the answer as it streams", async () => {
    const { browser, client } = await connected();
    const sent = client.sendMessage(hello);
    await settle();
    expect(await sent).toBe(true);
    const { id } = browser.server.run;
    browser.server.event(id, "agent_thinking", { thought: "Hm", step_number: 1, total_steps: 1 });
    browser.server.event(id, "tool_executing", { tool_call_id: "t", tool_name: "upper", arguments: { a: 1 } });
    browser.server.say(id, "Hel");
    browser.server.say(id, "lo");
    expect(client.getSnapshot().runs).toMatchObject([
      { status: "running", text: "Hello", thoughts: [{ thought: "Hm" }], tools: [{ status: "running" }] },
    ]);
    browser.server.end(id);
    expect(client.getSnapshot().runs).toMatchObject([{ status: "completed", tools: [{ status: "cut" }] }]);
    expect(client.getSnapshot().messages).toMatchObject([
      { role: "user", content: "hello", status: "confirmed", run_status: "completed" },
      { role: "agent", content: "Hello", status: "completed" },
    ]);
  });

  it("shows an optimistic message once, through the guide's two calls", async () => {
    const { browser, client } = await connected();
    browser.server.isMute = true;
    const id = client.sendOptimisticMessage("hello");
    expect(client.getSnapshot().messages).toMatchObject([{ content: "hello", status: "pending", correlation_id: id }]);
    expect(browser.server.contents).toEqual([]);
    const sent = client.sendMessage({ type: "user_message", payload: { content: "hello", correlation_id: id } });
    expect(client.sendMessage({ type: "user_message", payload: { content: "hello", correlation_id: id } })).toBe(sent);
    await settle();
    expect(browser.server.contents).toEqual(["hello"]);
    expect(browser.server.of("user_message")[0]).toMatchObject({ correlation_id: id });
    browser.server.isMute = false;
    browser.server.socket.drop(1006);
    expect(client.getSnapshot().messages).toMatchObject([{ status: "unconfirmed" }]);
    await browser.clock.advance(1_000);
    expect(await sent).toBe(true);
    expect(client.getSnapshot().messages.filter(({ role }) => role === "user")).toMatchObject([{ status: "confirmed" }]);
    expect(browser.server.runs.size).toBe(1);
  });

  it("fails a message that the server refuses, and only that one", async () => {
    const { browser, client } = await connected();
    browser.server.isMute = true;
    const first = client.sendOptimisticMessage("one");
    const second = client.sendOptimisticMessage("two");
    const sent = client.sendMessage({ type: "user_message", payload: { content: "one", correlation_id: first } });
    void client.sendMessage({ type: "user_message", payload: { content: "two", correlation_id: second } });
    browser.server.error(browser.server.socket, "AGENT_BUSY", first);
    expect(await sent).toBe(false);
    expect(client.getSnapshot().messages).toMatchObject([
      { status: "failed", error: { code: "AGENT_BUSY" } },
      { status: "pending" },
    ]);
    expect(client.getSnapshot().lastError?.code).toBe("AGENT_BUSY");
    client.clearError();
    expect(client.getSnapshot().lastError).toBeNull();
    browser.server.isMute = false;
    expect(client.resend(first)).not.toBe(first);
    await settle();
    expect(browser.server.contents).toEqual(["one", "two", "one"]);
  });

  it.each(["RATE_LIMIT_EXCEEDED", "QUEUE_FULL", "SERVICE_UNAVAILABLE"])(
    "sends again after %s, under the same key, and holds back what is behind it",
    async (code) => {
      const { browser, client } = await connected();
      browser.server.isMute = true;
      const first = client.sendMessage({ ...hello, correlation_id: "k1" });
      await settle();
      browser.server.error(browser.server.socket, code, "k1", { retry_after_ms: 12_000 });
      browser.server.isMute = false;
      const second = client.sendMessage({ ...hello, correlation_id: "k2" });
      await browser.clock.advance(11_900);
      expect(browser.server.of("user_message").map((m) => m.correlation_id)).toEqual(["k1"]);
      await browser.clock.advance(200);
      expect(browser.server.of("user_message").map((m) => m.correlation_id)).toEqual(["k1", "k1", "k2"]);
      expect([await first, await second]).toEqual([true, true]);
    },
  );

  it("waits for the next server while this one drains", async () => {
    const { browser, client } = await connected();
    browser.chance = 0;
    browser.server.control(browser.server.socket, "server_draining", { reason: "restart", reconnect_after_ms: 3_000 });
    const sent = client.sendMessage(hello);
    await browser.clock.advance(1_000);
    expect(browser.server.contents).toEqual([]);
    browser.server.socket.drop(1012);
    expect(client.getSnapshot().retry?.delay_ms).toBe(2_000);
    await browser.clock.advance(2_100);
    expect(await sent).toBe(true);
  });

  it("keeps to the server's rate", async () => {
    const browser = new Browser();
    browser.server.limits = { ...browser.server.limits, max_message_rate: 3 };
    const client = await browser.tab().open();
    for (let n = 0; n < 5; n += 1) void client.sendMessage({ type: "user_message", payload: { content: `${n}` } });
    await browser.clock.advance(59_000);
    expect(browser.server.contents).toEqual(["0", "1", "2"]);
    expect(client.getSnapshot().queued).toBe(2);
    await browser.clock.advance(2_000);
    expect(browser.server.contents).toEqual(["0", "1", "2", "3", "4"]);
    expect(client.getSnapshot().queued).toBe(0);
  });

  it("fails what is too large or wrong itself", async () => {
    const { browser, client } = await connected();
    expect(await client.sendMessage({ type: "user_message", payload: { content: "ä".repeat(6_000) } })).toBe(false);
    expect(client.getSnapshot().lastError?.code).toBe("MESSAGE_TOO_LARGE");
    expect(await client.sendMessage({ type: "user_message", payload: { content: " " } })).toBe(false);
    expect(await client.sendMessage({ type: "user_message", payload: { text: "hello" } })).toBe(false);
    expect(await client.sendMessage({ type: "nonsense" })).toBe(false);
    expect(await client.sendMessage({ type: "ack", payload: { seq: 1 } })).toBe(false);
    expect(client.getSnapshot().lastError?.code).toBe("VALIDATION_ERROR");
    expect(browser.server.received.filter((m) => m.type !== "pong")).toEqual([]);
  });

  it("resolves types without a confirmation once they are written", async () => {
    const browser = new Browser();
    browser.server.isUp = false;
    const client = await browser.tab().open();
    const ping = client.sendMessage({ type: "ping", payload: { n: 1 } });
    const pongs: unknown[] = [];
    client.subscribe("pong", ({ payload }) => pongs.push(payload));
    browser.server.isUp = true;
    await browser.clock.advance(1_000);
    expect(await ping).toBe(true);
    expect(pongs).toEqual([{ n: 1 }]);
  });

  it("stops a run, and takes one that has ended as stopped", async () => {
    const { browser, client } = await connected();
    await client.sendMessage(hello);
    const { id } = browser.server.run;
    expect(await client.stopRun(id)).toBe(true);
    expect(client.getSnapshot().runs).toMatchObject([{ status: "cancelled" }]);
    expect(await client.stopRun("run-of-another-time")).toBe(true);
    expect(client.getSnapshot().lastError).toBeNull();
  });
});

describe("the line", () => {
  it("acknowledges at every 32 numbers, and within a second", async () => {
    const { browser, client } = await connected();
    await client.sendMessage(hello);
    for (let n = 0; n < 40; n += 1) browser.server.say(browser.server.run.id, "x");
    await settle();
    expect(browser.server.of("ack").map((m) => m.payload.seq)).toEqual([32]);
    await browser.clock.advance(1_000);
    expect(browser.server.of("ack").map((m) => m.payload.seq)).toEqual([32, 42]);
    await browser.clock.advance(5_000);
    expect(browser.server.of("ack")).toHaveLength(2);
  });

  it("does not acknowledge where the subprotocol was not selected", async () => {
    const browser = new Browser();
    browser.server.selects = "";
    const client = await browser.tab().open();
    await client.sendMessage(hello);
    await browser.clock.advance(5_000);
    expect(browser.server.of("ack")).toEqual([]);
  });

  it("answers heartbeats, and gives up a line that is silent for two and a half", async () => {
    const { browser, client } = await connected();
    browser.server.control(browser.server.socket, "heartbeat", { server_time: 1 });
    await settle();
    expect(browser.server.of("pong")).toHaveLength(1);
    await browser.clock.advance(74_000);
    expect(client.getSnapshot().isConnected).toBe(true);
    await browser.clock.advance(2_500);
    expect(browser.server.sockets).toHaveLength(2);
    expect(browser.server.sockets[0]?.state).toBe("closed");
    expect(client.getSnapshot().session?.verdict).toBe("exact");
  });

  it("probes a line when the page comes back, and leaves it when it is dead", async () => {
    const { browser, client, tab } = await connected();
    tab.page("visible");
    await browser.clock.advance(10_000);
    expect(browser.server.sockets).toHaveLength(1);
    browser.server.isMute = true;
    tab.page("visible");
    await browser.clock.advance(6_000);
    expect(browser.server.sockets).toHaveLength(2);
    expect(client.getSnapshot().isConnected).toBe(true);
  });

  it("renews the token in place", async () => {
    const { browser, client, tab } = await connected();
    browser.server.control(browser.server.socket, "auth_expiring", { expires_at: 1 });
    await browser.clock.advance(30_000);
    expect(tab.tokensGiven).toBe(2);
    expect(browser.server.of("auth").map((m) => m.payload.token)).toEqual([tokenFor("alice")]);
    expect(client.getSnapshot().connectionStats.reconnections).toBe(0);
  });

  it("asks for a token again where the new one is not accepted", async () => {
    const { browser, tab } = await connected();
    browser.server.isMute = true;
    browser.server.control(browser.server.socket, "auth_expiring", { expires_at: 1 });
    await browser.clock.advance(10_500);
    expect(tab.tokensGiven).toBe(3);
    expect(browser.server.of("auth")).toHaveLength(2);
  });

  it.each([1001, 1006, 1011, 1012, 4401, 4408])("comes back after %d", async (code) => {
    const { browser, client } = await connected();
    browser.server.socket.drop(code);
    expect(client.getSnapshot()).toMatchObject({ status: "RECONNECTING", isReconnecting: true });
    await browser.clock.advance(1_000);
    expect(client.getSnapshot()).toMatchObject({
      status: "CONNECTED",
      connectionStats: { reconnections: 1 },
      lastError: null,
    });
    expect(client.getSnapshot().connectionStats.average_reconnection_ms).toBeGreaterThan(0);
  });

  it.each([1009, 4400, 4403, 4409, 4429])("comes back after %d only when asked to", async (code) => {
    const { browser, client } = await connected();
    browser.server.socket.drop(code);
    await browser.clock.advance(600_000);
    expect(client.getSnapshot().status).toBe("ERROR");
    expect(client.getSnapshot().lastError?.help).toBeTruthy();
    expect(browser.server.sockets).toHaveLength(1);
    client.forceReconnect();
    await browser.clock.advance(10);
    expect(client.getSnapshot().isConnected).toBe(true);
  });

  it("shows what the server said before it closed", async () => {
    const { browser, client } = await connected();
    browser.server.error(browser.server.socket, "USER_DISABLED", undefined, { recoverable: false, help: "Ask Bob." });
    browser.server.socket.drop(4403);
    expect(client.getSnapshot().lastError).toMatchObject({ code: "USER_DISABLED", help: "Ask Bob." });
  });

  it("does not storm where a server takes connections and ends them at once", async () => {
    const { browser } = await connected();
    browser.chance = 0.999;
    for (let n = 0; n < 400; n += 1) {
      for (const socket of browser.server.open) socket.drop(1011);
      await browser.clock.advance(250);
    }
    expect(browser.server.sockets.length).toBeLessThan(12);
  });

  it("reads nothing more from a line it has left", async () => {
    const { browser, client } = await connected();
    const [old] = browser.server.sockets;
    client.forceReconnect();
    await browser.clock.advance(10);
    expect(old?.onmessage).toBeNull();
    expect(old?.onclose).toBeNull();
    expect(client.getSnapshot().isConnected).toBe(true);
  });

  it("counts bad frames and goes on", async () => {
    const { browser, client } = await connected();
    await client.sendMessage(hello);
    const { socket, session, run } = browser.server;
    for (const data of ["", "nonsense", "[]", '{"type":"x"}', new ArrayBuffer(1)]) socket.deliverText(data);
    expect(client.getSnapshot()).toMatchObject({
      status: "CONNECTED",
      connectionStats: { errors_encountered: 5 },
      lastError: { code: "BAD_SERVER_FRAME" },
    });
    // An event that cannot be read is passed over; the ones behind it are not.
    session.seq += 1;
    session.written = session.seq;
    const bad = { type: "partial_result", payload: { run_id: run.id, content: 5 }, timestamp: 1, seq: session.seq };
    socket.deliver(bad);
    browser.server.say(run.id, "on");
    expect(client.getSnapshot().runs).toMatchObject([{ text: "on" }]);
    expect(browser.server.sockets).toHaveLength(1);
  });

  it("comes back by a resume where an event is missing", async () => {
    const { browser, client } = await connected();
    await client.sendMessage(hello);
    const { run, session, socket } = browser.server;
    session.socket = null;
    browser.server.say(run.id, "a");
    session.socket = socket;
    browser.server.say(run.id, "b");
    await browser.clock.advance(1_000);
    expect(browser.server.sockets).toHaveLength(2);
    expect(client.getSnapshot().runs).toMatchObject([{ text: "ab" }]);
  });

  it("an application's fault in a handler loses nothing", async () => {
    const { browser, client } = await connected();
    const seen: string[] = [];
    client.subscribe("agent_started", () => {
      throw new Error("the application's own");
    });
    client.subscribe("*", ({ type }) => seen.push(type));
    await client.sendMessage(hello);
    expect(seen).toEqual(["message_confirmed", "agent_started"]);
    await expect(browser.clock.advance(0)).rejects.toThrow("the application's own");
  });

  it("leaves nothing behind when it is closed", async () => {
    const { browser, client, tab } = await connected();
    await client.sendMessage(hello);
    client.close();
    expect(browser.server.open).toHaveLength(0);
    expect(browser.clock.waiting).toBe(0);
    expect(tab.listeners).toBe(0);
  });

  it("connects again while the good-bye is not over", async () => {
    const { browser, client } = await connected();
    browser.server.socket.close = () => undefined; // the server's half never comes
    client.disconnect();
    expect(client.getSnapshot().status).toBe("DISCONNECTING");
    client.connect();
    await browser.clock.advance(5_000);
    expect(client.getSnapshot()).toMatchObject({ status: "CONNECTED", session: { verdict: "exact" } });
  });

  it("shows the newest error, whatever its clock says", async () => {
    const { browser, client } = await connected();
    await client.sendMessage({ type: "nonsense" });
    expect(client.getSnapshot().lastError?.code).toBe("VALIDATION_ERROR");
    browser.server.error(browser.server.socket, "UNKNOWN_MESSAGE_TYPE", undefined, { timestamp: 1 });
    expect(client.getSnapshot().lastError?.code).toBe("UNKNOWN_MESSAGE_TYPE");
    await client.sendMessage({ type: "nonsense" });
    expect(client.getSnapshot().lastError?.code).toBe("VALIDATION_ERROR");
    client.clearError();
    expect(client.getSnapshot().lastError).toBeNull();
  });

  it("disconnects on purpose and connects again to the same session", async () => {
    const { browser, client } = await connected();
    const session = client.getSnapshot().session?.session_id;
    client.disconnect();
    expect(["DISCONNECTING", "DISCONNECTED"]).toContain(client.getSnapshot().status);
    await browser.clock.advance(2_000);
    expect(client.getSnapshot().status).toBe("DISCONNECTED");
    const sent = client.sendMessage(hello);
    expect(client.getSnapshot().queued).toBe(1);
    client.connect();
    await browser.clock.advance(10);
    expect(await sent).toBe(true);
    expect(client.getSnapshot().session).toMatchObject({ session_id: session, verdict: "exact" });
  });
});

describe("at the edges", () => {
  it("answers everything with no once it is closed, and starts nothing", async () => {
    const { browser, client } = await connected();
    client.close();
    expect(await client.sendMessage(hello)).toBe(false);
    expect(await client.sendMessage({ type: "ping", payload: {} })).toBe(false);
    expect(await client.stopRun("run-1")).toBe(false);
    await expect(client.loadThread("old")).rejects.toMatchObject({ body: { code: "CLOSED" } });
    client.connect();
    client.forceReconnect();
    await browser.clock.advance(60_000);
    expect(browser.server.sockets).toHaveLength(1);
    expect(browser.clock.waiting).toBe(0);
  });

  it("counts merged text that it cannot read as taken", async () => {
    const { browser, client } = await connected();
    void client.sendMessage(hello);
    await browser.clock.advance(10);
    const { id } = browser.server.run;
    const { socket, session } = browser.server;
    session.seq += 2;
    session.written = session.seq;
    socket.deliver({ type: "partial_result", payload: {}, timestamp: 1, seq: session.seq, seq_from: session.seq - 1 });
    browser.server.say(id, "after");
    await browser.clock.advance(2_000);
    expect(client.getSnapshot().lastError?.code).toBe("BAD_SERVER_FRAME");
    expect(client.getSnapshot().runs[0]?.text).toBe("after");
    expect(browser.server.sockets).toHaveLength(1);
    expect(browser.server.of("ack").at(-1)?.payload.seq).toBe(session.seq);
  });

  it("stops a run of a thread that it does not show", async () => {
    const { browser, client } = await connected();
    void client.sendMessage({ type: "user_message", payload: { content: "hello", thread_id: "other" } });
    await browser.clock.advance(10);
    client.openThread("shown");
    const stopped = client.stopRun(browser.server.run.id);
    await browser.clock.advance(10);
    expect(await stopped).toBe(true);
    expect(browser.server.of("stop_agent")).toHaveLength(1);
  });

  it("keeps 500 messages without a connection, and refuses one more", async () => {
    const { browser, client } = await connected();
    client.disconnect();
    await browser.clock.advance(10);
    for (let n = 0; n < 500; n += 1) void client.sendMessage({ type: "user_message", payload: { content: `${n}` } });
    expect(client.getSnapshot()).toMatchObject({ queued: 500, lastError: null });
    const key = client.sendOptimisticMessage("one more");
    expect(await client.sendMessage({ type: "user_message", payload: { content: "one more", correlation_id: key } })).toBe(false);
    expect(client.getSnapshot().queued).toBe(500);
    expect(client.getSnapshot().messages.at(-1)).toMatchObject({ status: "failed", error: { code: "OUTBOX_FULL" } });
  });

  it("says of a run that something of it may still be at work", async () => {
    const { browser, client } = await connected();
    void client.sendMessage(hello);
    await browser.clock.advance(10);
    expect(client.getSnapshot().runs[0]?.abandoned).toBe(false);
    browser.server.event(browser.server.run.id, "agent_completed", { status: "cancelled", duration_ms: 1, abandoned: true });
    expect(client.getSnapshot().runs[0]).toMatchObject({ status: "cancelled", abandoned: true });
  });
});

describe("a token of another user", () => {
  it("is not used for a ticket of the one who was here", async () => {
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

  it("is not sent to renew the one who was here: the new user begins afresh", async () => {
    const { browser, client, tab } = await connected();
    void client.sendMessage(hello);
    await browser.clock.advance(10);
    const page = client.loadThread("old");
    void page.catch(() => undefined);
    browser.server.isMute = true;
    const late = client.loadThread("late");
    const outcome = expect(late).rejects.toMatchObject({ body: { code: "USER_CHANGED" } });
    tab.token = tokenFor("bob");
    browser.server.control(browser.server.socket, "auth_expiring", { expires_at: 1 });
    await browser.clock.advance(10);
    await outcome;
    expect(browser.server.of("auth")).toEqual([]);
    expect(client.getSnapshot()).toMatchObject({ isConnected: true, messages: [], runs: [], session: { user_id: "bob", verdict: "new" } });
    expect(browser.server.open).toHaveLength(1);
  });
});

it("writes nothing to a socket that is being closed, and loses nothing by that", async () => {
  const { browser, client } = await connected();
  const first = client.sendMessage(hello);
  await browser.clock.advance(10);
  expect(await first).toBe(true);
  const { socket } = browser.server;
  const { id } = browser.server.run;
  socket.isClosing = true;
  browser.server.control(socket, "heartbeat", { server_time: 1 });
  for (let n = 0; n < 40; n += 1) browser.server.say(id, `${n} `);
  const sent = client.sendMessage({ type: "user_message", payload: { content: "late" } });
  const page = client.loadThread("old");
  void page.catch(() => undefined);
  await browser.clock.advance(10);
  expect(client.getSnapshot().messages.at(-1)?.content).toContain("39");
  socket.drop(1012);
  await browser.clock.advance(2_000);
  expect(await sent).toBe(true);
  await expect(page).rejects.toMatchObject({ body: { code: "THREAD_NOT_FOUND" } });
  expect(client.getSnapshot().session?.verdict).toBe("exact");
  expect(browser.server.contents).toEqual(["hello", "late"]);
});
