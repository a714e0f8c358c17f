/** Lost connections and reloads: no event is lost, and none is processed twice. */

import { describe, expect, it } from "vitest";
import type { NetraClient } from "../../src/index.js";
import { Browser } from "../support/browser.js";
import { settle } from "../support/clock.js";
import { tokenFor, type FakeServer } from "../support/server.js";

const hello = { type: "user_message", payload: { content: "hello" } };
const PIECES = ["He", "l", "lo ", "Wörld ", "😀", "!", " And", " more."];

const answers = (client: NetraClient): string[] =>
  client.getSnapshot().messages.filter(({ role }) => role === "agent").map(({ content }) => content);

function emitRun(server: FakeServer): void {
  const { id } = server.run;
  server.event(id, "agent_thinking", { thought: "Hm" });
  server.event(id, "tool_executing", { tool_call_id: "t1", tool_name: "upper", arguments: {} });
  for (const piece of PIECES.slice(0, 4)) server.say(id, piece);
  server.sayBytes(id, "image/png", Uint8Array.of(1, 2, 3).buffer);
  server.event(id, "tool_completed", {
    tool_call_id: "t1",
    tool_name: "upper",
    success: true,
    duration_ms: 1,
    result: "X",
  });
  for (const piece of PIECES.slice(4)) server.say(id, piece);
  server.end(id);
}

/** The subprotocols that the server selects, one socket after the other. */
const SELECTED = [["netra.v1"], ["netra.v2"], ["netra.v1", "netra.v2"], ["netra.v2", "netra.v1"]];

describe.each(SELECTED)("a lost connection (%s, then %s)", (...selected) => {
  // connection_established, confirmation, start, thought, tool, 4 pieces, bytes, tool, 4 pieces, end
  it.each(Array.from({ length: 16 }, (_, n) => n + 1))(
    "after frame %i of a run gives the same text, and every event once",
    async (frames) => {
      const browser = new Browser();
      browser.server.selects = (socket) => selected[socket % selected.length] ?? "";
      const client = await browser.tab().open();
      const seen: number[] = [];
      client.subscribe("*", (message) => "seq" in message && seen.push(message.seq));
      browser.server.socket.framesLeft = frames - 1 || Infinity;
      if (frames === 1) browser.server.socket.drop(1006);
      const sent = client.sendMessage(hello);
      await browser.clock.advance(frames === 1 ? 2_000 : 0);
      if (browser.server.runs.size === 0) await browser.clock.advance(2_000);
      emitRun(browser.server);
      await browser.clock.advance(2_000);
      expect(await sent).toBe(true);
      expect(answers(client)).toEqual([PIECES.join("")]);
      const [run] = client.getSnapshot().runs;
      expect(run).toMatchObject({ status: "completed", thoughts: [{ thought: "Hm" }] });
      expect(run?.attachments).toMatchObject([{ media_type: "image/png", bytes: 3 }]);
      expect(run?.parts.map(({ type }) => type)).toEqual(["thought", "tool", "text", "file", "text"]);
      expect(run?.tools).toMatchObject([{ status: "succeeded", result: "X" }]);
      expect(seen).toEqual(seen.map((_, index) => index + 1));
      expect(browser.server.runs.size).toBe(1);
    },
  );

  it("after every frame, again and again, gives the same text", async () => {
    const browser = new Browser();
    browser.server.selects = (socket) => selected[socket % selected.length] ?? "";
    const client = await browser.tab().open();
    const sent = client.sendMessage(hello);
    await settle();
    emitRun(browser.server);
    for (let n = 0; n < 30; n += 1) {
      browser.server.socket.framesLeft = 1;
      browser.server.control(browser.server.socket, "heartbeat", { server_time: 1 });
      await browser.clock.advance(1_000);
    }
    expect(await sent).toBe(true);
    expect(answers(client)).toEqual([PIECES.join("")]);
  });

  it("counts merged text as all of its numbers", async () => {
    const browser = new Browser();
    const client = await browser.tab().open();
    await client.sendMessage(hello);
    const { run, session, socket } = browser.server;
    const merged = { run_id: run.id, content: "Hello" };
    session.seq += 3;
    session.written = session.seq;
    socket.deliver({ type: "partial_result", payload: merged, timestamp: 1, seq: 5, seq_from: 3 });
    browser.server.say(run.id, "!");
    expect(client.getSnapshot().runs).toMatchObject([{ text: "Hello!" }]);
    await browser.clock.advance(1_000);
    expect(browser.server.of("ack").at(-1)?.payload.seq).toBe(6);
  });
});

describe("verdicts", () => {
  it("new: the first connection asks for no session and no history", async () => {
    const browser = new Browser();
    const client = await browser.tab().open();
    expect(browser.server.socket.query.has("session_id")).toBe(false);
    expect(browser.server.of("get_thread_history")).toEqual([]);
    expect(client.getSnapshot().session).toMatchObject({ verdict: "new", reason: null });
  });

  it("exact: resumes after the last number, and appends later events", async () => {
    const browser = new Browser();
    const client = await browser.tab().open();
    await client.sendMessage(hello);
    const { id } = browser.server.run;
    browser.server.say(id, "one ");
    browser.server.socket.drop(1006);
    browser.server.say(id, "two ");
    await browser.clock.advance(1_000);
    expect(browser.server.socket.query.get("last_seq")).toBe("3");
    browser.server.say(id, "three");
    expect(client.getSnapshot().session?.verdict).toBe("exact");
    expect(answers(client)).toEqual(["one two three"]);
    expect(browser.server.of("get_thread_history")).toEqual([]);
  });

  it("gap: replaces its text by the server's, reloads the thread and sends unconfirmed messages again", async () => {
    const browser = new Browser();
    const client = await browser.tab().open();
    await client.sendMessage(hello);
    const { run, session } = browser.server;
    browser.server.say(run.id, "one ");
    browser.server.isMute = true;
    const lost = client.sendMessage({ ...hello, correlation_id: "lost" });
    browser.server.socket.drop(1006);
    browser.server.isMute = false;
    browser.server.say(run.id, "two ");
    browser.server.say(run.id, "three ");
    session.events.splice(0, session.events.length - 1);
    await browser.clock.advance(1_000);
    expect(client.getSnapshot().session?.verdict).toBe("gap");
    browser.server.say(run.id, "four");
    expect(answers(client)[0]).toBe("one two three four");
    expect(browser.server.of("get_thread_history")).toHaveLength(1);
    expect(await lost).toBe(true);
  });

  it("reset after a crash: keeps the received part of an answer that the history lacks", async () => {
    const browser = new Browser();
    const client = await browser.tab().open();
    const thread = client.getSnapshot().threadId;
    await client.sendMessage({ ...hello, correlation_id: "k1" });
    const { run, session } = browser.server;
    browser.server.say(run.id, "half an ans");
    browser.server.threads.set(thread, [
      {
        message_id: "m1",
        role: "user",
        content: "hello",
        created_at: 1,
        correlation_id: "k1",
        run: { run_id: run.id, agent_name: "echo", status: "interrupted" },
      },
    ]);
    browser.server.sessions.delete(session.id);
    browser.server.socket.drop(1006);
    await browser.clock.advance(1_000);
    expect(client.getSnapshot().session?.verdict).toBe("reset");
    expect(client.getSnapshot().messages).toMatchObject([
      { role: "user", run_status: "interrupted" },
      { role: "agent", content: "half an ans", status: "interrupted" },
    ]);
  });

  it("shows an answer that the history lacks, although it has another with the same text", async () => {
    const browser = new Browser();
    const client = await browser.tab().open();
    const thread = client.getSnapshot().threadId;
    for (const key of ["k1", "k2"]) {
      await client.sendMessage({ ...hello, correlation_id: key });
      browser.server.say(browser.server.run.id, "hello!");
      browser.server.end(browser.server.run.id);
    }
    const [one, two] = [...browser.server.runs.keys()];
    const asked = (n: number, key: string, run_id = "") => ({
      message_id: `m${n}`,
      role: "user" as const,
      content: "hello",
      created_at: n,
      correlation_id: key,
      run: { run_id, agent_name: "echo", status: "completed" as const },
    });
    browser.server.threads.set(thread, [
      asked(1, "k1", one),
      { message_id: "m2", role: "agent", content: "hello!", created_at: 2 },
      asked(3, "k2", two),
    ]);
    await client.loadThread(thread);
    expect(answers(client)).toEqual(["hello!", "hello!"]);
    expect(client.getSnapshot().messages[1]?.payload).toEqual({ content: "hello!", agent_name: "echo" });
  });

  it.each(["unknown", "ahead"] as const)("reset (%s): begins a session, sends under the old key and reads the history", async (reason) => {
    const browser = new Browser();
    const client = await browser.tab().open();
    const verdicts: string[] = [];
    client.subscribe("connection_established", ({ payload }) => verdicts.push(payload.resume.verdict));
    await client.sendMessage({ ...hello, correlation_id: "k1" });
    const { run, session } = browser.server;
    browser.server.say(run.id, "part");
    browser.server.isMute = true;
    const lost = client.sendMessage({ ...hello, correlation_id: "k2" });
    const thread = client.getSnapshot().threadId;
    browser.server.socket.drop(1006);
    browser.server.isMute = false;
    run.status = "interrupted";
    run.end = { run_id: run.id, status: "interrupted", duration_ms: 1 };
    browser.server.threads.set(thread, [
      {
        message_id: "m1",
        role: "user",
        content: "hello",
        created_at: 1,
        correlation_id: "k1",
        run: { run_id: run.id, agent_name: "echo", status: "interrupted" },
      },
      { message_id: "m2", role: "agent", content: "part of it", created_at: 2 },
    ]);
    if (reason === "unknown") browser.server.sessions.delete(session.id);
    else session.written = 0;
    await browser.clock.advance(1_000);
    expect(verdicts).toEqual(["reset"]);
    expect(client.getSnapshot().session).toMatchObject({ verdict: "reset", reason });
    expect(await lost).toBe(true);
    const [question, answer, ...rest] = client.getSnapshot().messages;
    expect(question).toMatchObject({ role: "user", correlation_id: "k1", run_status: "interrupted" });
    expect(answer).toMatchObject({ role: "agent", content: "part of it" });
    expect(rest.map(({ correlation_id }) => correlation_id)).toEqual(["k2", "k2"]);
    expect(client.getSnapshot().runs[0]).toMatchObject({ run_id: run.id, status: "interrupted" });
  });

  it("keeps its text if the server's lacks the beginning, and marks a text without one", async () => {
    const browser = new Browser();
    const tab = browser.tab();
    const client = await tab.open();
    await client.sendMessage(hello);
    const { run, socket } = browser.server;
    browser.server.say(run.id, "a long text");
    browser.server.isShort = true;
    socket.drop(1006);
    await browser.clock.advance(2_000);
    expect(client.getSnapshot().session?.verdict).toBe("exact");
    browser.server.say(run.id, "!");
    expect(client.getSnapshot().runs).toMatchObject([{ text: "a long text!", truncated: false }]);
    await browser.clock.advance(2_000);
    const reloaded = await tab.reload();
    expect(reloaded.getSnapshot().runs).toMatchObject([{ text: "ext!", truncated: true }]);
  });
});

describe("a reload", () => {
  it("resumes the session, rebuilds the runs and reads the thread again", async () => {
    const browser = new Browser();
    const tab = browser.tab();
    const before = await tab.open();
    await before.sendMessage(hello);
    const { id } = browser.server.run;
    browser.server.say(id, "one ");
    await browser.clock.advance(1_000);
    browser.server.say(id, "two ");
    const { threadId, session } = before.getSnapshot();
    const client = await tab.reload();
    expect(client.getSnapshot()).toMatchObject({
      threadId,
      session: { session_id: session?.session_id, verdict: "exact" },
    });
    browser.server.say(id, "three");
    expect(answers(client)).toEqual(["one two three"]);
    expect(browser.server.of("get_thread_history")).toHaveLength(1);
    browser.server.end(id);
    expect(client.getSnapshot().runs).toMatchObject([{ status: "completed" }]);
  });

  it("acknowledges only events up to the stored position", async () => {
    const browser = new Browser();
    const tab = browser.tab();
    const client = await tab.open();
    await client.sendMessage(hello);
    for (let n = 0; n < 100; n += 1) {
      browser.server.say(browser.server.run.id, "x");
      await settle();
      const stored = [...storedIn(browser)].find(([name]) => name.endsWith(":session"))?.[1] ?? "{}";
      const { last } = JSON.parse(stored) as { last: number };
      expect(last).toBeGreaterThanOrEqual(browser.server.session.acknowledged);
    }
  });

  it("sends offline messages in order and once, and shows them meanwhile", async () => {
    const browser = new Browser();
    const tab = browser.tab();
    const first = await tab.open();
    browser.server.isUp = false;
    browser.server.socket.drop(1006);
    const id = first.sendOptimisticMessage("one");
    void first.sendMessage({ type: "user_message", payload: { content: "one", correlation_id: id } });
    void first.sendMessage({ type: "user_message", payload: { content: "two" } });
    expect(first.getSnapshot().queued).toBe(2);
    const client = await tab.reload();
    await browser.clock.advance(60_000);
    expect(client.getSnapshot()).toMatchObject({ status: "RECONNECTING", queued: 2 });
    expect(client.getSnapshot().messages.map(({ content, status }) => [content, status])).toEqual([
      ["one", "pending"],
      ["two", "pending"],
    ]);
    browser.server.isUp = true;
    await browser.clock.advance(60_000);
    expect(browser.server.contents).toEqual(["one", "two"]);
    expect(client.getSnapshot().queued).toBe(0);
    await tab.reload();
    await browser.clock.advance(60_000);
    expect(browser.server.contents).toEqual(["one", "two"]);
  });

  it("keeps messages that were typed before the first token", async () => {
    const browser = new Browser();
    const tab = browser.tab();
    tab.token = () => Promise.reject(new Error("offline"));
    const first = await tab.open();
    expect(first.getSnapshot().lastError?.code).toBe("TOKEN_UNAVAILABLE");
    void first.sendMessage({ type: "user_message", payload: { content: "one" } });
    tab.token = tokenFor("alice");
    await tab.reload();
    expect(browser.server.contents).toEqual(["one"]);
  });

  it("drops everything if another user has logged in", async () => {
    for (const hasLocks of [true, false]) {
      const browser = new Browser();
      browser.hasLocks = hasLocks;
      const tab = browser.tab();
      const first = await tab.open();
      const session_id = browser.server.session.id;
      browser.server.isUp = false;
      browser.server.socket.drop(1006);
      void first.sendMessage({ type: "user_message", payload: { content: "alice's" } });
      tab.unload();
      browser.server.isUp = true;
      tab.token = tokenFor("bob");
      const client = await tab.open();
      await browser.clock.advance(60_000);
      expect(client.getSnapshot().session).toMatchObject({ user_id: "bob", verdict: "new" });
      expect(client.getSnapshot().messages).toEqual([]);
      expect(browser.server.contents).toEqual([]);
      const left = [...storedIn(browser), ...storedIn(browser, tab.storage)].map(([, value]) => value);
      expect(left.join()).not.toContain("alice");
      expect(left.join()).not.toContain(session_id);
    }
  });

  it("drops everything if another user logs in while the page is open", async () => {
    const browser = new Browser();
    const tab = browser.tab();
    const client = await tab.open();
    await client.sendMessage(hello);
    tab.token = tokenFor("bob");
    browser.server.socket.drop(4401);
    await browser.clock.advance(2_000);
    expect(client.getSnapshot().session).toMatchObject({ user_id: "bob", verdict: "new" });
    expect(client.getSnapshot().messages).toEqual([]);
    expect(client.getSnapshot().runs).toEqual([]);
    expect([...storedIn(browser)].map(([name]) => name).join()).not.toContain("alice");
  });

  it("works with foreign data in the storage, and without room in it", async () => {
    const browser = new Browser();
    const tab = browser.tab();
    const first = await tab.open();
    expect(first.getSnapshot().isConnected).toBe(true);
    tab.unload();
    for (const [name] of storedIn(browser)) browser.shared.set(name, '{"session": 5, "last": "x"}');
    const client = await tab.open();
    expect(client.getSnapshot().session?.verdict).toBe("new");
    browser.shared.set = () => {
      throw new Error("QuotaExceededError");
    };
    expect(await client.sendMessage(hello)).toBe(true);
    expect(client.getSnapshot().lastError?.code).toBe("STORAGE_FULL");
  });
});

it("asks for a history at most four times if the server rejects it without a delay", async () => {
  const browser = new Browser();
  const tab = browser.tab();
  await (await tab.open()).sendMessage(hello);
  browser.server.rejection = { code: "SERVICE_UNAVAILABLE", retry_after_ms: 0 };
  await tab.reload();
  await browser.clock.advance(600_000);
  expect(browser.server.of("get_thread_history")).toHaveLength(4);
});

function* storedIn(browser: Browser, storage = browser.shared): Iterable<[string, string]> {
  const base = "netra:https://page.example/ws/config";
  for (const user of ["alice", "bob"]) {
    for (const what of ["session", "outbox", "taken"]) {
      const name = `${base}:${user}:${what}`;
      const value = storage.get(name);
      if (value !== null) yield [name, value];
    }
  }
  for (const what of ["user", "unsent"]) {
    const value = storage.get(`${base}:${what}`);
    if (value !== null) yield [`${base}:${what}`, value];
  }
}
