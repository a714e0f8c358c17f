import { describe, expect, it } from "vitest";
import { Browser } from "../support/browser.js";
import { settle } from "../support/clock.js";
import { connected, hello } from "../support/connected.js";

describe("a line", () => {
  it("acknowledges every 32 numbers, and within a second", async () => {
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

  it("does not acknowledge if the subprotocol was not selected", async () => {
    const browser = new Browser();
    browser.server.selects = () => "";
    const client = await browser.tab().open();
    await client.sendMessage(hello);
    await browser.clock.advance(5_000);
    expect(browser.server.of("ack")).toEqual([]);
  });

  it("answers heartbeats", async () => {
    const { browser } = await connected();
    browser.server.control(browser.server.socket, "heartbeat", { server_time: 1 });
    await settle();
    expect(browser.server.of("pong")).toHaveLength(1);
  });

  it("shows the error that the server sent before it closed", async () => {
    const { browser, client } = await connected();
    browser.server.error(browser.server.socket, "USER_DISABLED", undefined, { recoverable: false, help: "Ask Bob." });
    browser.server.socket.drop(4403);
    expect(client.getSnapshot().lastError).toMatchObject({ code: "USER_DISABLED", help: "Ask Bob." });
  });

  it("ignores the frames of a line that it has ended", async () => {
    const { browser, client } = await connected();
    const [old] = browser.server.sockets;
    client.forceReconnect();
    await browser.clock.advance(10);
    expect(old?.onmessage).toBeNull();
    expect(old?.onclose).toBeNull();
    expect(client.getSnapshot().isConnected).toBe(true);
  });

  it("counts invalid frames, and continues", async () => {
    const { browser, client } = await connected();
    await client.sendMessage(hello);
    const { socket, session, run } = browser.server;
    for (const data of ["", "nonsense", "[]", '{"type":"x"}', new ArrayBuffer(1)]) socket.deliverText(data);
    expect(client.getSnapshot()).toMatchObject({
      status: "CONNECTED",
      connectionStats: { errors_encountered: 5 },
      lastError: { code: "BAD_SERVER_FRAME" },
    });
    // An event that cannot be read is skipped; the events after it are processed.
    session.seq += 1;
    session.written = session.seq;
    const bad = { type: "partial_result", payload: { run_id: run.id, content: 5 }, timestamp: 1, seq: session.seq };
    socket.deliver(bad);
    browser.server.say(run.id, "on");
    expect(client.getSnapshot().runs).toMatchObject([{ text: "on" }]);
    expect(browser.server.sockets).toHaveLength(1);
  });

  it("ignores messages of types that it does not know, and acknowledges such events", async () => {
    const { browser, client } = await connected();
    await client.sendMessage(hello);
    const { socket, session, run } = browser.server;
    socket.deliver({ type: "room_news", payload: { room: "news" }, timestamp: 1 });
    session.seq += 1;
    session.written = session.seq;
    socket.deliver({ type: "agent_dreaming", payload: { run_id: run.id }, timestamp: 1, seq: session.seq });
    browser.server.say(run.id, "on");
    await browser.clock.advance(2_000);
    const { connectionStats, lastError, runs } = client.getSnapshot();
    expect([connectionStats.errors_encountered, lastError]).toEqual([0, null]);
    expect(runs).toMatchObject([{ text: "on" }]);
    expect(browser.server.of("ack").at(-1)?.payload.seq).toBe(session.seq);
    expect(browser.server.sockets).toHaveLength(1);
  });

  it("counts merged text that it cannot read as received", async () => {
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

  it("reconnects and resumes if an event is missing", async () => {
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

  it("connects again before the closing handshake is complete", async () => {
    const { browser, client } = await connected();
    browser.server.socket.close = () => undefined; // the server's half never comes
    client.disconnect();
    expect(client.getSnapshot().status).toBe("DISCONNECTING");
    client.connect();
    await browser.clock.advance(5_000);
    expect(client.getSnapshot()).toMatchObject({ status: "CONNECTED", session: { verdict: "exact" } });
  });
});
