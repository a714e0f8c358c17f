/** Whatever happens to the connection, and whichever subprotocols its sockets have, nothing is lost. */

import { expect, it } from "vitest";
import { Browser } from "../support/browser.js";
import { settle } from "../support/clock.js";
import { Random } from "../support/random.js";

const THREADS = ["one", "two", "three"];

it.each(Array.from({ length: 40 }, (_, seed) => seed))("any runs over any sockets arrive once and in order (seed %i)", async (seed) => {
  const random = new Random(seed);
  const browser = new Browser();
  const { server } = browser;
  server.selects = () => random.one(["netra.v1", "netra.v2"]);
  server.mergesReplays = random.below(2) === 0;
  const client = await browser.tab().open();
  for (const thread of THREADS) client.openThread(thread);
  const numbers: number[] = [];
  let next = 1;
  client.subscribe("*", (message) => {
    if (!("seq" in message)) return;
    expect(message.seq_from ?? message.seq).toBe(next);
    next = message.seq + 1;
    numbers.push(message.seq);
  });
  const sent = [0, 1, 2, 3].map((n) =>
    client.sendMessage({ type: "user_message", payload: { content: `question ${n}`, thread_id: random.one(THREADS) } }),
  );
  await browser.clock.advance(10);
  for (let step = 0; step < 80; step += 1) {
    const running = [...server.runs.values()].filter(({ end }) => end === null);
    const run = running.length === 0 ? undefined : random.one(running);
    const choice = random.below(24);
    if (choice === 0) server.open.at(-1)?.drop(1006);
    else if (choice === 1 && server.open.length > 0) server.socket.framesLeft = 1 + random.below(6);
    else if (choice === 2) await browser.clock.advance(random.below(2_000));
    else if (run === undefined) await browser.clock.advance(100);
    else if (choice === 3 && running.length > 1) server.end(run.id);
    else if (choice === 4) server.event(run.id, "agent_started", { agent_name: "echo", thread_id: run.thread, attempt: 2 });
    else if (choice === 5) server.event(run.id, "agent_thinking", { thought: random.text(4) });
    else if (choice === 6) server.sayBytes(run.id, "a/b", random.bytes(30).buffer);
    else server.say(run.id, random.text(6));
    if (random.below(4) === 0) await settle();
  }
  if (server.open.length > 0) server.socket.framesLeft = Infinity;
  await browser.clock.advance(5_000);
  for (const { id, end } of [...server.runs.values()]) if (end === null) server.end(id);
  await browser.clock.advance(5_000);
  expect(await Promise.all(sent)).toEqual([true, true, true, true]);
  expect(next).toBe((numbers.at(-1) ?? 0) + 1);
  expect(numbers.at(-1)).toBe(server.session.seq);
  expect(client.getSnapshot().lastError).toBeNull();
  for (const run of server.runs.values()) {
    const seen = client.getSnapshot().messages.find(({ run_id, role }) => run_id === run.id && role === "agent");
    expect(seen).toMatchObject({ content: run.text, status: "completed" });
    const files = run.files?.map(({ file_id }) => file_id) ?? [];
    expect(seen?.attachments.map(({ file_id }) => file_id)).toEqual(files);
    expect(seen?.role === "agent" && seen.parts.flatMap((part) => (part.type === "file" ? [part.file_id] : []))).toEqual(files);
  }
});
