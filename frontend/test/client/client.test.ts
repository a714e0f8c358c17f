import { describe, expect, it } from "vitest";
import { settle } from "../support/clock.js";
import { connected, hello } from "../support/connected.js";

describe("the client", () => {
  it("resolves to true once confirmed, and shows the answer as it streams", async () => {
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

  it("shows an optimistic edit, and hides what it replaces once it is confirmed", async () => {
    const { browser, client } = await connected();
    await client.sendMessage(hello);
    browser.server.end(browser.server.run.id);
    const [{ message_id: replaces } = { message_id: null }] = client.getSnapshot().messages;
    browser.server.isMute = true;
    const options = { replaces: replaces ?? "", agent: "echo" };
    const correlation_id = client.sendOptimisticMessage("better", "user_message", options);
    const sent = client.sendMessage({ type: "user_message", payload: { ...options, content: "better", correlation_id } });
    const users = (): string[] => client.getSnapshot().messages.filter(({ role }) => role === "user").map(({ content }) => content);
    expect(users()).toEqual(["hello", "better"]);
    browser.server.isMute = false;
    browser.server.socket.drop(1006);
    await browser.clock.advance(1_000);
    expect(await sent).toBe(true);
    expect(users()).toEqual(["better"]);
  });

  it("stops showing a message that failed, and no other one", async () => {
    const { browser, client } = await connected();
    browser.server.rejection = { code: "VALIDATION_ERROR" };
    const failed = client.sendOptimisticMessage("hello");
    expect(client.discardMessage(failed)).toBe(false);
    expect(await client.sendMessage({ type: "user_message", payload: { content: "hello", correlation_id: failed } })).toBe(false);
    const pending = client.sendOptimisticMessage("waits");
    expect(client.discardMessage(pending)).toBe(false);
    expect(client.discardMessage(failed)).toBe(true);
    expect(client.discardMessage(failed)).toBe(false);
    expect(client.getSnapshot().messages).toMatchObject([{ content: "waits", status: "pending" }]);
  });

  it("stops a run, and treats a run that has ended as stopped", async () => {
    const { browser, client } = await connected();
    await client.sendMessage(hello);
    const { id } = browser.server.run;
    expect(await client.stopRun(id)).toBe(true);
    expect(client.getSnapshot().runs).toMatchObject([{ status: "cancelled" }]);
    expect(await client.stopRun("run-of-another-time")).toBe(true);
    expect(client.getSnapshot().lastError).toBeNull();
  });

  it("continues after an exception in a handler of the application", async () => {
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

  it("leaves no timer and no listener when it is closed", async () => {
    const { browser, client, tab } = await connected();
    await client.sendMessage(hello);
    client.close();
    expect(browser.server.open).toHaveLength(0);
    expect(browser.clock.waiting).toBe(0);
    expect(tab.listeners).toBe(0);
  });

  it("leaves no timer when its rooms and threads are left after it is closed", async () => {
    const { browser, client } = await connected();
    const leave = [client.joinRoom("news"), client.watchThread("t"), client.followThreads()];
    await browser.clock.advance(10);
    client.close();
    for (const one of leave) one();
    expect(browser.clock.waiting).toBe(0);
  });

  it("shows the newest error, whatever its timestamp says", async () => {
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

  it("disconnects and connects again to the same session", async () => {
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

  it("rejects everything once it is closed, and starts nothing", async () => {
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

  it("reports that a part of an ended run may still be running", async () => {
    const { browser, client } = await connected();
    void client.sendMessage(hello);
    await browser.clock.advance(10);
    expect(client.getSnapshot().runs[0]?.abandoned).toBe(false);
    browser.server.event(browser.server.run.id, "agent_completed", { status: "cancelled", duration_ms: 1, abandoned: true });
    expect(client.getSnapshot().runs[0]).toMatchObject({ status: "cancelled", abandoned: true });
  });
});
