/** Watched threads: what other sessions of the user do there, live, in order, and after a loss. */

import { describe, expect, it } from "vitest";
import { roomKey, type NetraClient, type Run } from "../../src/index.js";
import { Browser } from "../support/browser.js";

interface Devices {
  readonly here: Browser;
  readonly there: Browser;
  readonly asking: NetraClient;
  readonly watching: NetraClient;
}

/** Two devices of one user, on one thread. */
async function devices(): Promise<Devices> {
  const here = new Browser();
  const there = new Browser(here);
  here.server.keepsHistory = true;
  const asking = await here.tab().open({ threadId: "main" });
  const watching = await there.tab().open({ threadId: "main" });
  asking.watchThread("main");
  watching.watchThread("main");
  await here.clock.advance(10);
  return { here, there, asking, watching };
}

const say = (client: NetraClient, content: string, more: object = {}): Promise<boolean> =>
  client.sendMessage({ type: "user_message", payload: { content, ...more } });

const shown = (client: NetraClient): string[] =>
  client.getSnapshot().messages.map(({ role, content }) => `${role}: ${content}`);

const runOf = (client: NetraClient, id: string): Run => {
  const run = client.getSnapshot().runs.find(({ run_id }) => run_id === id);
  if (run === undefined) throw new Error(`there is no run ${id}`);
  return run;
};

describe("a watched thread", () => {
  it("shows every word of another device, its thoughts, tools and end", async () => {
    const { here, asking, watching } = await devices();
    const { server, clock } = here;
    void say(asking, "hello");
    await clock.advance(10);
    const { id } = server.run;
    expect(shown(watching)).toEqual(["user: hello", "agent: "]);
    server.event(id, "agent_thinking", { thought: "Hm" });
    server.event(id, "tool_executing", { tool_call_id: "t", tool_name: "look", arguments: {} });
    for (const word of ["one ", "two ", "three"]) {
      server.say(id, word);
      expect(shown(watching)).toEqual(shown(asking));
    }
    server.event(id, "tool_completed", { tool_call_id: "t", tool_name: "look", success: true, result: 1, duration_ms: 2 });
    server.end(id);
    expect(runOf(watching, id)).toMatchObject({
      status: "completed",
      agent_name: "echo",
      text: "one two three",
      thoughts: [{ thought: "Hm" }],
      tools: [{ tool_name: "look", status: "succeeded" }],
      duration_ms: 5,
    });
    expect(runOf(watching, id).tools).toEqual(runOf(asking, id).tools);
    expect(watching.getSnapshot().messages[0]).toMatchObject({ run_status: "completed", status: "confirmed" });
  });

  it("lists each answer behind its question, in the order of confirmations, as the history does", async () => {
    const { here, asking, watching } = await devices();
    const { server, clock } = here;
    const sent = ["first", "second", "third"].map((content, n) => say(n === 1 ? watching : asking, content));
    await clock.advance(10);
    await Promise.all(sent);
    const runs = [...server.runs.values()];
    for (const { id } of [...runs].reverse()) {
      server.say(id, `answer ${id}`);
      server.end(id);
    }
    await clock.advance(10);
    const contents = (server.threads.get("main") ?? []).map(({ role, content }) => `${role}: ${content}`);
    expect(contents).toHaveLength(6);
    expect(shown(watching)).toEqual(contents);
    expect(shown(asking)).toEqual(contents);
    const later = await new Browser(here).tab().open({ threadId: "main" });
    later.watchThread("main");
    await clock.advance(10);
    expect(shown(later)).toEqual(contents);
  });

  it("is joined in the middle of a run with its text so far, and then has every piece once", async () => {
    const here = new Browser();
    const asking = await here.tab().open({ threadId: "main" });
    const { server, clock } = here;
    void say(asking, "hello");
    await clock.advance(10);
    const { id } = server.run;
    server.say(id, "one ");
    const question = server.ask(id);
    const watching = await new Browser(here).tab().open({ threadId: "main" });
    watching.watchThread("main");
    await clock.advance(10);
    server.say(id, "two ");
    expect(runOf(watching, id)).toMatchObject({ text: "one two ", status: "running", agent_name: "echo" });
    expect(runOf(watching, id).questions).toMatchObject([{ question_id: question, outcome: null }]);
    const answered = watching.answer(question, { approve: true });
    await clock.advance(10);
    expect(await answered).toBe("approved");
    expect(runOf(asking, id).questions).toMatchObject([{ outcome: "approved" }]);
    const stopped = watching.stopRun(id);
    await clock.advance(10);
    expect(await stopped).toBe(true);
    expect(runOf(watching, id).status).toBe("cancelled");
    expect(runOf(asking, id).status).toBe("cancelled");
  });

  it.each(["the device that joins", "another tab of that device"])(
    "goes on after an answer of %s, whose history has the question",
    async (which) => {
      const here = new Browser();
      here.server.keepsHistory = true;
      const { server, clock } = here;
      const asking = await here.tab().open({ threadId: "main" });
      void say(asking, "hello");
      await clock.advance(10);
      const { id } = server.run;
      const first = server.ask(id);
      const { questions } = server.run;
      const stored = server.threads.get("main") ?? [];
      server.threads.set(
        "main",
        stored.map((one) => (one.run === undefined ? one : { ...one, run: { ...one.run, questions } })),
      );
      const there = new Browser(here);
      let watching = await there.tab().open({ threadId: "main" });
      await watching.loadThread("main");
      if (which.startsWith("another")) watching = await there.tab().open({ threadId: "main" });
      watching.watchThread("main");
      await clock.advance(10);
      const answered = watching.answer(first, { approve: true });
      await clock.advance(10);
      expect(await answered).toBe("approved");
      server.say(id, "booked");
      server.ask(id, { question_id: "next" });
      await clock.advance(10);
      const shows = runOf(watching, id);
      expect(shows.text).toBe("booked");
      expect(shows.questions).toMatchObject([{ outcome: "approved" }, { question_id: "next", outcome: null }]);
    },
  );

  it("learns from the room that a question of another session was answered, or expired", async () => {
    const { here, asking, watching } = await devices();
    const { server, clock } = here;
    server.sendsCopies = false;
    void say(asking, "hello");
    await clock.advance(10);
    const question = server.ask(server.run.id, { kind: "question" });
    server.isMute = true;
    const late = watching.answer(question, { answer: 1 });
    void late.catch(() => undefined);
    await clock.advance(10);
    server.isMute = false;
    server.close(question, "expired");
    await clock.advance(10);
    await expect(late).rejects.toMatchObject({ body: { code: "ANSWER_REJECTED" } });
    expect(runOf(watching, server.run.id).questions).toMatchObject([{ outcome: "expired" }]);
  });

  const WORDS = ["a ", "b ", "c ", "d ", "e "];
  it.each(Array.from({ length: WORDS.length + 6 }, (_, frames) => frames + 1))(
    "has every word after a line that was cut after frame %i",
    async (frames) => {
      const { here, there, asking, watching } = await devices();
      const { server, clock } = here;
      const socket = server.open.find(({ session }) => session === watching.getSnapshot().session?.session_id);
      if (socket === undefined) throw new Error("the device has no socket");
      socket.framesLeft = frames;
      void say(asking, "hello");
      await clock.advance(10);
      const { id } = server.run;
      for (const word of WORDS) {
        server.say(id, word);
        await clock.advance(400);
      }
      await clock.advance(30_000);
      server.say(id, "end");
      server.end(id);
      await clock.advance(30_000);
      expect(shown(watching)).toEqual(["user: hello", `agent: ${WORDS.join("")}end`]);
      expect(shown(asking)).toEqual(shown(watching));
      expect(runOf(watching, id).status).toBe("completed");
      expect(there.server.rooms.members("thread:main")).toHaveLength(2);
    },
  );

  it("goes on with a run that has outlived its session", async () => {
    const { here, asking } = await devices();
    const { server, clock } = here;
    void say(asking, "hello");
    await clock.advance(10);
    const { id, session } = server.run;
    server.say(id, "one ");
    server.open.find((socket) => socket.session === session.id)?.drop(1006);
    server.sessions.delete(session.id);
    server.say(id, "two ");
    await clock.advance(5_000);
    expect(asking.getSnapshot().session?.verdict).toBe("reset");
    server.say(id, "three");
    expect(shown(asking)).toEqual(["user: hello", "agent: one two three"]);
    server.end(id);
    await clock.advance(10);
    expect(runOf(asking, id)).toMatchObject({ status: "completed", text: "one two three" });
    expect(shown(asking)).toEqual(["user: hello", "agent: one two three"]);
  });

  it("watches again and reads the history after a gap, and learns what ended meanwhile", async () => {
    const { here, asking, watching } = await devices();
    const { server, clock } = here;
    void say(asking, "hello");
    await clock.advance(10);
    const first = server.run.id;
    server.say(first, "one ");
    for (const socket of server.rooms.members("thread:main")) {
      if (socket.session === watching.getSnapshot().session?.session_id) server.rooms.room("thread:main").members.delete(socket);
    }
    server.say(first, "two ");
    server.end(first);
    void say(asking, "again");
    await clock.advance(10);
    const second = server.run.id;
    server.say(second, "three ");
    expect(shown(watching)).toEqual(["user: hello", "agent: one "]);
    const socket = server.open.find(({ session }) => session === watching.getSnapshot().session?.session_id);
    if (socket === undefined) throw new Error("the device has no socket");
    server.control(socket, "room_gap", { room: "thread:main", from: 5, to: 9 });
    await clock.advance(10);
    server.say(second, "four");
    expect(shown(watching)).toEqual(["user: hello", "agent: one two ", "user: again", "agent: three four"]);
    expect(runOf(watching, first)).toMatchObject({ status: "completed", duration_ms: 5 });
    const watches = server.of("watch_thread").map(({ payload }) => payload);
    expect(watches.at(-1)).toEqual({ thread_id: "main" });
  });

  it("shows a run of its own session as the session has it, and reads the history once", async () => {
    const here = new Browser();
    const { server, clock } = here;
    server.keepsHistory = true;
    const client = await here.tab().open({ threadId: "main" });
    void say(client, "hello");
    await clock.advance(10);
    server.say(server.run.id, "one ");
    const before = server.of("get_thread_history").length;
    client.watchThread("main");
    client.openThread("main");
    await clock.advance(10);
    server.say(server.run.id, "two");
    expect(shown(client)).toEqual(["user: hello", "agent: one two"]);
    expect(server.of("get_thread_history")).toHaveLength(before + 1);
    client.openThread("other");
    expect(shown(client)).toEqual(["user: hello", "agent: one two"]);
  });

  it("reads the history where watching is refused, as without watching", async () => {
    const here = new Browser();
    const { server, clock } = here;
    server.rooms.refusals.set("thread:main", { code: "UNKNOWN_MESSAGE_TYPE" });
    server.threads.set("main", [{ message_id: "m", role: "user", content: "old", created_at: 1 }]);
    const client = await here.tab().open();
    client.disconnect();
    client.watchThread("main");
    client.connect();
    await clock.advance(10);
    expect(shown(client)).toEqual(["user: old"]);
    server.socket.drop(1006);
    await clock.advance(5_000);
    expect(client.getSnapshot().rooms.get(roomKey({ kind: "thread", thread_id: "main", owner: null }))?.status).toBe("refused");
  });

  it("of another user has no history here, and its runs end with what is known", async () => {
    const { here, watching } = await devices();
    const { server, clock } = here;
    watching.watchThread("main", { owner: "bob" });
    await clock.advance(10);
    const name = "thread:bob-main";
    const asked = { message_id: "m1", run_id: "r1", user_id: "bob", content: "hi" };
    server.rooms.publish(name, { type: "user_message", payload: asked });
    server.rooms.publish(name, { type: "agent_started", payload: { run_id: "r1", agent_name: "echo", thread_id: "main", attempt: 1 } });
    server.rooms.publish(name, { type: "partial_result", payload: { run_id: "r1", content: "yes" } });
    server.rooms.publish(name, { type: "news_of_a_newer_server", payload: {} });
    expect(shown(watching)).toEqual(["user: hi", "agent: yes"]);
    expect(watching.getSnapshot().messages.map(({ thread_id }) => thread_id)).toEqual(["bob/main", "bob/main"]);
    const before = server.of("get_thread_history").length;
    server.rooms.lose(name, 1);
    await clock.advance(10);
    expect(server.of("get_thread_history")).toHaveLength(before);
    expect(runOf.bind(null, watching, "r1")).toThrow();
  });
});

describe("a message that replaces another one", () => {
  it("hides it and what follows on every device", async () => {
    const { here, asking, watching } = await devices();
    const { server, clock } = here;
    for (const content of ["first", "second", "third"]) {
      void say(asking, content);
      await clock.advance(10);
      server.say(server.run.id, `answer to ${content}`);
      server.end(server.run.id);
    }
    const second = asking.getSnapshot().messages[2]?.message_id ?? "";
    expect(second).not.toBe("");
    void say(asking, "second, better", { replaces: second });
    await clock.advance(10);
    server.say(server.run.id, "better answer");
    const expected = ["user: first", "agent: answer to first", "user: second, better", "agent: better answer"];
    for (const client of [asking, watching]) expect(shown(client)).toEqual(expected);
    server.end(server.run.id);
    await clock.advance(10);
    const later = await new Browser(here).tab().open({ threadId: "main" });
    await clock.advance(10);
    for (const client of [asking, watching, later]) expect(shown(client)).toEqual(expected);
  });

  it("regenerates: the answer of the history is replaced by another one", async () => {
    const { here, asking } = await devices();
    const { server, clock } = here;
    void say(asking, "hello");
    await clock.advance(10);
    server.say(server.run.id, "bad");
    server.end(server.run.id);
    await asking.loadThread("main").catch(() => undefined);
    await clock.advance(10);
    const page = asking.loadThread("main");
    await clock.advance(10);
    await page;
    const [question, answer] = asking.getSnapshot().messages;
    expect(answer).toMatchObject({ role: "agent", id: server.run.id, run_id: server.run.id });
    void say(asking, "hello", { replaces: answer?.message_id ?? question?.message_id ?? "" });
    expect(shown(asking)).toEqual(["user: hello", "agent: bad"]);
    const before = server.of("get_thread_history").length;
    await clock.advance(10);
    expect(server.of("get_thread_history")).toHaveLength(before + 2); // each device reads it
    server.say(server.run.id, "good");
    expect(shown(asking)).toEqual(["user: hello", "agent: good"]);
  });
});

describe("the history", () => {
  it("attaches what an agent did to its answer", async () => {
    const here = new Browser();
    const { server, clock } = here;
    const run = { run_id: "r1", agent_name: "echo", status: "completed", duration_ms: 1_200 } as const;
    const asked = { question_id: "q", kind: "approval", prompt: "May I?", expires_at: 1, outcome: "approved" } as const;
    server.threads.set("main", [
      { message_id: "m1", role: "user", content: "one", created_at: 1, run: { ...run, questions: [asked] } },
      {
        message_id: "m2",
        role: "agent",
        content: "answer",
        created_at: 2,
        run,
        reply_to: "m1",
        steps: [
          { type: "thought", at: 0, thought: "Hm", step_number: 1, total_steps: 2 },
          { type: "tool", at: 3, tool_call_id: "t1", tool_name: "look", arguments: { a: 1 }, success: true, result: 5, duration_ms: 7 },
          { type: "tool", at: 3, tool_call_id: "t2", tool_name: "fail", arguments: null, success: false, error: "No." },
          { type: "tool", at: 3, tool_call_id: "t3", tool_name: "hang", arguments: null, truncated: true },
          { type: "question", at: 4, question_id: "q" },
          { type: "dream", at: 4 },
          { type: "thought", at: 4 },
          { type: "tool", at: 4 },
        ],
        feedback: { rating: "up" },
      },
    ]);
    const client = await here.tab().open({ threadId: "main" });
    await clock.advance(10);
    const [question, answer] = client.getSnapshot().messages;
    expect(answer).toMatchObject({ id: "r1", run_id: "r1", message_id: "m2", payload: { agent_name: "echo", feedback: { rating: "up" } } });
    expect(question).toMatchObject({ run_id: "r1", run_status: "completed" });
    expect(runOf(client, "r1")).toEqual({
      ...runOf(client, "r1"),
      text: "answer",
      duration_ms: 1_200,
      thoughts: [{ thought: "Hm", step_number: 1, total_steps: 2 }],
      tools: [
        { tool_call_id: "t1", tool_name: "look", arguments: { a: 1 }, status: "succeeded", result: 5, duration_ms: 7 },
        { tool_call_id: "t2", tool_name: "fail", arguments: null, status: "failed", error: "No." },
        { tool_call_id: "t3", tool_name: "hang", arguments: null, status: "cut", truncated: true },
      ],
    });
    expect(runOf(client, "r1").questions).toMatchObject([{ question_id: "q", outcome: "approved" }]);
  });

  it("keeps the live text of an answer that it has shortened", async () => {
    const { here, asking } = await devices();
    const { server, clock } = here;
    void say(asking, "hello");
    await clock.advance(10);
    server.say(server.run.id, "a long answer");
    server.end(server.run.id);
    const list = server.threads.get("main") ?? [];
    server.threads.set("main", list.map((one) => (one.role === "agent" ? { ...one, content: "a long", truncated: true } : one)));
    const page = asking.loadThread("main");
    await clock.advance(10);
    await page;
    expect(shown(asking)).toEqual(["user: hello", "agent: a long answer"]);
    expect(asking.getSnapshot().messages[1]).toMatchObject({ truncated: false, message_id: `msg-${server.run.id}-answer` });
    const other = await new Browser(here).tab().open({ threadId: "main" });
    await clock.advance(10);
    expect(other.getSnapshot().messages[1]).toMatchObject({ content: "a long", truncated: true });
  });
});
