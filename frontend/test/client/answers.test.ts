/** Questions and approvals: their state in the runs, and answers that settle once. */

import { describe, expect, it } from "vitest";
import { expiresIn, isOpen, type NetraClient, type Question } from "../../src/index.js";
import { Browser } from "../support/browser.js";
import { connected, hello } from "../support/connected.js";
import { tokenFor } from "../support/server.js";

async function asked(question: Parameters<Browser["server"]["ask"]>[1] = {}): Promise<{
  browser: Browser;
  client: NetraClient;
  run: string;
  id: string;
}> {
  const { browser, client } = await connected();
  await client.sendMessage(hello);
  const run = browser.server.run.id;
  return { browser, client, run, id: browser.server.ask(run, question) };
}

const question = (client: NetraClient): Question | undefined => client.getSnapshot().runs.at(-1)?.questions[0];

/** The outcome of a promise: its value, or the code of its error. */
const outcome = (promise: Promise<string>): Promise<string> =>
  promise.catch((error: unknown) => (error as { body: { code: string } }).body.code);

/** The same outcome; null until the promise is settled. */
function watched(promise: Promise<string>): { value: string | null } {
  const seen: { value: string | null } = { value: null };
  void outcome(promise).then((value) => (seen.value = value));
  return seen;
}

const TOOL = { tool_name: "delete", arguments: { path: "/tmp/a" } };

describe("a question", () => {
  it("is part of its run, open until it has an outcome", async () => {
    const { browser, client, run, id } = await asked(TOOL);
    expect(question(client)).toEqual({
      question_id: id,
      run_id: run,
      kind: "approval",
      prompt: "May I?",
      schema: null,
      ...TOOL,
      expires_at: browser.clock.now / 1000 + 60,
      outcome: null,
      answer: undefined,
      user_id: null,
    });
    browser.server.ask(run, { kind: "question", prompt: "Which?", schema: { type: "integer" } });
    browser.server.close(id, "denied", { user_id: "alice" });
    const [first, second] = client.getSnapshot().runs[0]?.questions ?? [];
    expect(first).toMatchObject({ outcome: "denied", user_id: "alice" });
    expect(second).toMatchObject({ kind: "question", schema: { type: "integer" }, tool_name: null, arguments: null });
    expect([first, second].map((one) => one && isOpen(one))).toEqual([false, true]);
  });

  it("keeps an outcome of a newer server", async () => {
    const { browser, client, id } = await asked();
    browser.server.close(id, "delegated");
    expect(question(client)?.outcome).toBe("delegated");
    expect(client.getSnapshot().lastError).toBeNull();
  });

  it("ends with its run, and is not reopened", async () => {
    const { browser, client, run, id } = await asked();
    browser.server.event(run, "agent_completed", { status: "cancelled", duration_ms: 1 });
    expect(question(client)?.outcome).toBe("cancelled");
    browser.server.ask(run, { question_id: id });
    expect(client.getSnapshot().runs[0]?.questions).toHaveLength(1);
    expect(question(client)?.outcome).toBe("cancelled");
  });

  it("expires by the server's clock", async () => {
    const { browser, client } = await asked();
    const { clock } = browser;
    const left = (): number => expiresIn(question(client) as Question, client.getSnapshot(), clock.now);
    expect(client.getSnapshot().clockOffset).toBe(0);
    expect(left()).toBe(60_000);
    await clock.advance(61_000);
    expect(left()).toBe(-1_000);
    clock.sleep(-10_000); // the clock of this machine is set back
    browser.server.socket.drop(1006);
    browser.server.serverAhead = 10_000;
    await clock.advance(1_000);
    expect(client.getSnapshot()).toMatchObject({ clockOffset: 10_000, isConnected: true });
    expect(left()).toBe(-2_000);
  });
});

describe("an answer", () => {
  it("resolves to the outcome", async () => {
    const { browser, client, run, id } = await asked();
    expect(await client.answer(id, { approve: true })).toBe("approved");
    expect(browser.server.of("answer")).toMatchObject([{ payload: { question_id: id, approve: true } }]);
    const second = browser.server.ask(run);
    expect(await client.answer(second, { approve: false })).toBe("denied");
    const third = browser.server.ask(run, { kind: "question" });
    expect(await client.answer(third, { answer: { size: 3, tags: ["a", null] } })).toBe("answered");
    expect(client.getSnapshot().runs[0]?.questions.map((one) => [one.outcome, one.user_id, one.answer])).toEqual([
      ["approved", "alice", undefined],
      ["denied", "alice", undefined],
      ["answered", "alice", { size: 3, tags: ["a", null] }],
    ]);
  });

  it("may be sent as a message too", async () => {
    const { browser, client, id } = await asked();
    const message = { type: "answer", payload: { question_id: id, approve: true } };
    expect(await client.sendMessage(message)).toBe(true);
    expect(await client.sendMessage(message)).toBe(false);
    expect(browser.server.of("answer")).toHaveLength(1);
  });

  it("is rejected by the server, and the question stays as it is", async () => {
    const { browser, client, id } = await asked({ kind: "question", schema: { type: "integer" } });
    browser.server.rejection = { code: "ANSWER_REJECTED" };
    const error = await client.answer(id, { answer: "three" }).catch((caught: unknown) => caught);
    expect(error).toMatchObject({ name: "RequestError", body: { code: "ANSWER_REJECTED", help: "Help." } });
    expect(question(client)?.outcome).toBeNull();
    expect(client.getSnapshot().lastError).toBeNull();
    browser.server.rejection = null;
    expect(await client.answer(id, { answer: 3 })).toBe("answered");
  });

  it("is rejected locally if the question is closed, if the answer is invalid, and once the client is closed", async () => {
    const { browser, client, id } = await asked();
    browser.server.close(id, "expired");
    expect(await outcome(client.answer(id, { approve: true }))).toBe("ANSWER_REJECTED");
    expect(await outcome(client.answer("", { approve: true }))).toBe("VALIDATION_ERROR");
    expect(browser.server.of("answer")).toEqual([]);
    expect(await outcome(client.answer("q-of-another-time", { approve: true }))).toBe("ANSWER_REJECTED");
    client.close();
    expect(await outcome(client.answer(id, { approve: true }))).toBe("CLOSED");
  });

  it.each([
    ["the limit", 0, "answered"],
    ["one byte more", 1, "MESSAGE_TOO_LARGE"],
  ])("of %s", async (_, more, expected) => {
    const { browser, client, id } = await asked({ kind: "question" });
    browser.server.limits = { ...browser.server.limits, max_message_size: 1_000 };
    browser.server.socket.drop(1006);
    await browser.clock.advance(1_000);
    const sizeOf = (answer: string): number => {
      const key = `id-${Number(browser.uniqueId().slice(3)) + 1}`;
      const payload = { question_id: id, answer };
      return JSON.stringify({ timestamp: browser.clock.now / 1000, type: "answer", payload, correlation_id: key }).length;
    };
    const answer = "x".repeat(1_000 - sizeOf("") + more);
    const settled = watched(client.answer(id, { answer }));
    await browser.clock.advance(10);
    expect(settled.value).toBe(expected);
    expect(browser.server.of("answer")).toHaveLength(1 - more);
  });

  it("is rejected if another answer was first, whether the outcome or the rejection arrives first", async () => {
    const { browser, client, run, id } = await asked();
    browser.server.isMute = true;
    const late = watched(client.answer(id, { approve: true }));
    await browser.clock.advance(1);
    const errors: string[] = [];
    client.subscribe("error", ({ payload }) => errors.push(payload.code));
    browser.server.close(id, "denied");
    await browser.clock.advance(1);
    expect(late.value).toBe("ANSWER_REJECTED");
    // The server's own rejection arrives afterwards, and is ignored.
    browser.server.error(browser.server.socket, "ANSWER_REJECTED", browser.server.of("answer")[0]?.correlation_id);
    await browser.clock.advance(1);
    expect(errors).toEqual([]);
    expect(client.getSnapshot()).toMatchObject({ lastError: null, connectionStats: { errors_encountered: 0 } });
    const next = browser.server.ask(run, { kind: "question" });
    const both = [client.answer(next, { answer: { a: 1, b: [2] } }), client.answer(next, { answer: { a: 1, b: [3] } })].map(watched);
    await browser.clock.advance(1);
    browser.server.close(next, "answered", { answer: { b: [2], a: 1 } });
    await browser.clock.advance(1);
    expect(both.map(({ value }) => value)).toEqual(["answered", "ANSWER_REJECTED"]);
  });

  it("resolves if the outcome is the requested one, or cannot be compared with it", async () => {
    const { browser, client, run, id } = await asked();
    browser.server.isMute = true;
    const same = watched(client.answer(id, { approve: false }));
    const silent = browser.server.ask(run, { kind: "question" });
    const unsaid = watched(client.answer(silent, { answer: "secret" }));
    const newer = browser.server.ask(run);
    const unknown = watched(client.answer(newer, { approve: true }));
    const gone = browser.server.ask(run);
    const expired = watched(client.answer(gone, { approve: false }));
    await browser.clock.advance(1);
    browser.server.close(id, "denied");
    browser.server.close(silent, "answered");
    browser.server.close(newer, "delegated");
    browser.server.close(gone, "expired");
    await browser.clock.advance(1);
    expect([same, unsaid, unknown, expired].map(({ value }) => value)).toEqual([
      "denied",
      "answered",
      "delegated",
      "ANSWER_REJECTED",
    ]);
  });

  it("is rejected when its run ends", async () => {
    const { browser, client, run, id } = await asked();
    browser.server.isMute = true;
    const settled = watched(client.answer(id, { approve: true }));
    await browser.clock.advance(1);
    browser.server.event(run, "agent_completed", { status: "interrupted", duration_ms: 1 });
    await browser.clock.advance(1);
    expect(settled.value).toBe("ANSWER_REJECTED");
  });

  it("settles when the client is closed, and leaves no timer", async () => {
    const { browser, client, id } = await asked();
    browser.server.isMute = true;
    const settled = watched(client.answer(id, { approve: true }));
    await browser.clock.advance(1);
    client.close();
    await browser.clock.advance(0);
    expect(settled.value).toBe("CLOSED");
    expect(browser.clock.waiting).toBe(0);
  });

  it("is never sent as another user", async () => {
    const { browser, client, tab } = await connected();
    await client.sendMessage(hello);
    const id = browser.server.ask(browser.server.run.id);
    browser.server.socket.drop(1006);
    const settled = watched(client.answer(id, { approve: true }));
    tab.token = tokenFor("bob");
    await browser.clock.advance(1_000);
    expect(client.getSnapshot()).toMatchObject({ session: { user_id: "bob" }, runs: [] });
    expect(settled.value).toBe("USER_CHANGED");
    expect(browser.server.of("answer")).toEqual([]);
  });
});

describe("an answer and a lost connection", () => {
  it("is sent again if the question is open", async () => {
    const { browser, client, id } = await asked();
    browser.server.isMute = true;
    const settled = watched(client.answer(id, { approve: true }));
    await browser.clock.advance(1);
    browser.server.isMute = false;
    browser.server.socket.drop(1006);
    await browser.clock.advance(1_000);
    expect(settled.value).toBe("approved");
    expect(browser.server.of("answer")).toHaveLength(2);
    expect(new Set(browser.server.of("answer").map((one) => one.correlation_id)).size).toBe(1);
  });

  it("is not sent again if it arrived: the outcome follows", async () => {
    const { browser, client, id } = await asked();
    const { socket } = browser.server;
    const settled = watched(client.answer(id, { approve: true }));
    socket.framesLeft = 0; // the server's answer is lost
    await browser.clock.advance(1);
    expect(settled.value).toBeNull();
    socket.drop(1006);
    await browser.clock.advance(1_000);
    expect(settled.value).toBe("approved");
    expect(browser.server.of("answer")).toHaveLength(1);
    expect(question(client)).toMatchObject({ outcome: "approved", user_id: "alice" });
  });

  it("is not sent if it was given offline, and the question is closed by then", async () => {
    const { browser, client, id } = await asked();
    browser.server.socket.drop(1006);
    const settled = watched(client.answer(id, { approve: true }));
    browser.server.close(id, "approved");
    await browser.clock.advance(1_000);
    // Another answer approved it: this one was never sent.
    expect(settled.value).toBe("ANSWER_REJECTED");
    expect(browser.server.of("answer")).toEqual([]);
  });

  it("is sent if it was given offline, and the question is still open", async () => {
    const { browser, client, id } = await asked();
    browser.server.socket.drop(1006);
    const settled = watched(client.answer(id, { approve: true }));
    await browser.clock.advance(1_000);
    expect(settled.value).toBe("approved");
  });

  it("has the outcome unknown if a gap hides it", async () => {
    const { browser, client, id } = await asked();
    const { socket, session } = browser.server;
    const settled = watched(client.answer(id, { approve: true }));
    socket.framesLeft = 0;
    await browser.clock.advance(1);
    socket.drop(1006);
    session.events.length = 0; // the log lost them
    await browser.clock.advance(1_000);
    expect(client.getSnapshot().session?.verdict).toBe("gap");
    expect(settled.value).toBe("unknown");
    expect(question(client)?.outcome).toBe("unknown");
  });

  it("waits for the outcome if the server rejects one that was sent twice", async () => {
    const { browser, client, run, id } = await asked();
    browser.server.isMute = true;
    const settled = watched(client.answer(id, { approve: true }));
    await browser.clock.advance(1);
    browser.server.socket.drop(1006);
    await browser.clock.advance(1_000);
    const [, again] = browser.server.of("answer");
    browser.server.error(browser.server.socket, "ANSWER_REJECTED", again?.correlation_id);
    await browser.clock.advance(4_000);
    expect(settled.value).toBeNull();
    browser.server.close(id, "approved");
    await browser.clock.advance(1);
    expect(settled.value).toBe("approved");
    const other = browser.server.ask(run);
    const never = watched(client.answer(other, { approve: true }));
    await browser.clock.advance(1);
    browser.server.socket.drop(1006);
    await browser.clock.advance(1_000);
    browser.server.error(browser.server.socket, "ANSWER_REJECTED", browser.server.of("answer").at(-1)?.correlation_id);
    await browser.clock.advance(4_999);
    expect(never.value).toBeNull();
    await browser.clock.advance(1);
    expect(never.value).toBe("ANSWER_REJECTED");
  });

  it("shows a question after a reload in its present state", async () => {
    const { browser, tab, client } = await connected();
    await client.sendMessage(hello);
    const first = browser.server.ask(browser.server.run.id, TOOL);
    await browser.clock.advance(2_000); // acknowledged: the log does not have it any more
    const second = await tab.reload();
    expect(question(second)).toMatchObject({ question_id: first, ...TOOL, outcome: null });
    expect(await second.answer(first, { approve: true })).toBe("approved");
    const third = await tab.reload();
    expect(third.getSnapshot().runs[0]?.questions ?? []).toEqual([]);
  });

  it("loses its questions with a reset: the history tells how the run ended", async () => {
    const { browser, client, run, id } = await asked();
    const settled = watched(client.answer("q-unknown", { approve: true }));
    await browser.clock.advance(1);
    expect(settled.value).toBe("ANSWER_REJECTED");
    const { threadId } = client.getSnapshot();
    const key = browser.server.run.key;
    browser.server.threads.set(threadId, [
      { message_id: "m", role: "user", content: "hello", created_at: 1, correlation_id: key, run: { run_id: run, agent_name: "echo", status: "interrupted" } },
    ]);
    browser.server.sessions.clear();
    browser.server.runs.clear();
    browser.server.socket.drop(1006);
    const waiting = watched(client.answer(id, { approve: true }));
    browser.server.isMute = false;
    await browser.clock.advance(1_000);
    expect(client.getSnapshot().session?.verdict).toBe("reset");
    expect(question(client)?.outcome).toBe("cancelled");
    expect(waiting.value).toBe("ANSWER_REJECTED");
  });
});

/** The history of a thread as the server has it now: the message of a run, with its questions. */
function shareHistory(browser: Browser): void {
  Object.defineProperty(browser.server.threads, "get", {
    value: (threadId: string) => {
      const { id: run_id, key, status, questions, thread } = browser.server.run;
      if (threadId !== thread) return undefined;
      const run = { run_id, agent_name: "echo", status, ...(questions.length === 0 ? {} : { questions }) };
      return [{ message_id: "m", role: "user", content: "hello", created_at: 1, correlation_id: key, run }];
    },
  });
}

describe("the history", () => {
  it("has the texts of a question that a resume only lists, and how others were closed", async () => {
    const { browser, tab, client } = await connected();
    await client.sendMessage(hello);
    shareHistory(browser);
    const first = browser.server.ask(browser.server.run.id);
    const second = browser.server.ask(browser.server.run.id, TOOL);
    browser.server.close(first, "approved", { user_id: "alice" });
    await browser.clock.advance(2_000);
    browser.server.isShort = true;
    const again = await tab.reload();
    expect(again.getSnapshot().runs[0]?.questions).toMatchObject([
      { question_id: first, outcome: "approved", user_id: "alice" },
      { question_id: second, outcome: null, prompt: "May I?", ...TOOL },
    ]);
  });

  it("replaces the outcome unknown after a gap", async () => {
    const { browser, client, id } = await asked();
    shareHistory(browser);
    browser.server.socket.drop(1006);
    browser.server.close(id, "expired");
    browser.server.sessions.values().next().value?.events.splice(0);
    await browser.clock.advance(1_000);
    expect(client.getSnapshot().session?.verdict).toBe("gap");
    expect(question(client)?.outcome).toBe("expired");
  });

  it("does not reopen a question, and adds no run without an open question", async () => {
    const { browser, client, id } = await asked();
    shareHistory(browser);
    browser.server.close(id, "denied");
    await browser.clock.advance(1);
    browser.server.run.questions = browser.server.run.questions.map(({ outcome: _, ...open }) => open);
    await client.loadThread(client.getSnapshot().threadId);
    expect(question(client)?.outcome).toBe("denied");
    browser.server.run.questions = [];
    const other = await browser.tab().open({ threadId: client.getSnapshot().threadId, shareAcrossTabs: false });
    expect(other.getSnapshot().messages).toMatchObject([{ content: "hello", run_status: "running" }]);
    expect(other.getSnapshot().runs).toEqual([]);
  });
});

describe("a question of another session", () => {
  const THREAD = "shared-thread";

  async function foreign(): Promise<{ browser: Browser; client: NetraClient; owner: NetraClient; id: string }> {
    const browser = new Browser();
    browser.hasLocks = false;
    const owner = await browser.tab().open({ threadId: THREAD });
    await owner.sendMessage(hello);
    const id = browser.server.ask(browser.server.run.id, TOOL);
    shareHistory(browser);
    const client = await browser.tab().open({ threadId: THREAD });
    return { browser, client, owner, id };
  }

  it("is in the history, and may be answered; the outcome is in both sessions", async () => {
    const { browser, client, owner, id } = await foreign();
    expect(question(client)).toMatchObject({ question_id: id, ...TOOL, outcome: null });
    expect(client.getSnapshot().runs).toMatchObject([{ agent_name: "echo", thread_id: THREAD, status: "running" }]);
    const settled = watched(client.answer(id, { approve: true }));
    await browser.clock.advance(10);
    expect(settled.value).toBe("approved");
    expect([question(owner), question(client)].map((one) => one?.outcome)).toEqual(["approved", "approved"]);
  });

  it("may be answered by a client that does not show its run", async () => {
    const { browser, id } = await foreign();
    const client = await browser.tab().open({ threadId: "another-one" });
    const settled = watched(client.answer(id, { approve: false }));
    await browser.clock.advance(10);
    expect(settled.value).toBe("denied");
    expect(client.getSnapshot()).toMatchObject({ runs: [], messages: [] });
  });

  it("gets its outcome from the history, if the server does not send it to this session", async () => {
    const { browser, client, owner, id } = await foreign();
    browser.server.sendsCopies = false;
    const settled = watched(client.answer(id, { approve: true }));
    await browser.clock.advance(10);
    expect(question(owner)?.outcome).toBe("approved");
    expect(settled.value).toBeNull();
    await browser.clock.advance(2_000);
    expect(settled.value).toBe("approved");
    expect(question(client)?.outcome).toBe("approved");
  });

  it("is polled three times while its outcome is unknown, and stays open if it is open", async () => {
    const { browser, client, id } = await foreign();
    browser.server.isMute = true;
    const settled = watched(client.answer(id, { approve: true }));
    await browser.clock.advance(10);
    browser.server.isMute = false;
    const before = browser.server.of("get_thread_history").length;
    await browser.clock.advance(60_000);
    expect(browser.server.of("get_thread_history")).toHaveLength(before + 3);
    expect(settled.value).toBeNull();
    client.close();
    await browser.clock.advance(1);
    expect(settled.value).toBe("CLOSED");
  });
});

it("the tokens of a run are summed by model", async () => {
  const { browser, client, run } = await asked();
  const used = (model: string, input_tokens: number, cost?: number): void =>
    browser.server.event(run, "agent_usage", { model, input_tokens, output_tokens: 1, ...(cost === undefined ? {} : { cost }) });
  expect(client.getSnapshot().runs[0]?.usage).toEqual([]);
  used("small", 10);
  used("large", 100, 0.5);
  used("small", 20);
  used("large", 1);
  used("large", 1, 0.25);
  expect(client.getSnapshot().runs[0]?.usage).toEqual([
    { model: "small", input_tokens: 30, output_tokens: 2 },
    { model: "large", input_tokens: 102, output_tokens: 3, cost: 0.75 },
  ]);
});
