// Runs the unmodified client of AG-UI against a server, which verifies each stream itself.
// Argument: {"url", "token", "task", "source", …}. `source` is the class of the documentation that
// goes on after a lost connection. Prints one line of JSON for each result.

import { writeFileSync } from "node:fs";
import { EventSchemas } from "@ag-ui/core/schemas";
import { HttpAgent } from "@ag-ui/client";
import { transformSync } from "esbuild";

const argument = JSON.parse(process.argv[2]);
const headers = { Authorization: `Bearer ${argument.token}` };
const warnings = [];
console.warn = (...given) => warnings.push(given.map(String).join(" "));
console.error = () => {}; // the client reports each failed run there as well

// The client cancels the reader of a lost connection, and rejects with its error once more.
const CUT = "the connection was cut";
process.on("unhandledRejection", (error) => {
  if (error.message !== CUT) throw error;
});

/** Parse each event with the schemas of AG-UI, and cut the connection after `events` of them. */
function watching(seen, events = Infinity) {
  return async (url, init) => {
    const cut = new AbortController();
    const response = await fetch(url, { ...init, signal: AbortSignal.any([cut.signal, init.signal]) });
    if (!response.ok) return response;
    let text = "";
    let left = events;
    const decoder = new TextDecoder();
    const encoder = new TextEncoder();
    const passing = new TransformStream({
      transform(bytes, out) {
        if (left === 0) return;
        text += decoder.decode(bytes, { stream: true });
        for (let end; (end = text.indexOf("\n\n")) >= 0; ) {
          const block = text.slice(0, end + 2);
          text = text.slice(end + 2);
          const data = /^data: (.*)$/m.exec(block);
          if (data) {
            seen.push(EventSchemas.parse(JSON.parse(data[1])).type);
            if (!/^id: .+$/m.test(block)) throw new Error("an event has no id");
          }
          out.enqueue(encoder.encode(block));
          if (data && --left === 0) {
            // An error discards what was not read yet, so it comes when that was read.
            setTimeout(() => { cut.abort(); out.error(new TypeError(CUT)); }, 20);
            return;
          }
        }
      },
      flush: () => (left === 0 ? new Promise(() => {}) : undefined), // it ends with that error
    });
    return new Response(response.body.pipeThrough(passing), { headers: response.headers });
  };
}

function open(Agent, name, options = {}) {
  const seen = [];
  const agent = new Agent({
    url: `${argument.url}/ag-ui/${name}`,
    headers: options.headers ?? headers,
    fetch: watching(seen, options.events),
    threadId: options.threadId,
  });
  return { agent, seen };
}

function say(agent, content) {
  agent.addMessage({ id: crypto.randomUUID(), role: "user", content });
}

/** The messages of an agent, without the ids of the run. */
function shown(agent) {
  const text = JSON.stringify(agent.messages.filter((message) => message.role !== "user"));
  const names = new Map();
  const name = (id) => names.get(id) ?? names.set(id, `id${names.size}`).get(id);
  return JSON.parse(text.replace(/\b(run|call|q)_[0-9a-f]+/g, name));
}

async function failed(promise) {
  try {
    await promise;
  } catch (error) {
    return { message: error.message, status: error.status, code: error.payload?.code };
  }
  return null;
}

async function whole() {
  const { agent, seen } = open(HttpAgent, "work");
  say(agent, "hello");
  const { result } = await agent.runAgent();
  return { agent, seen, result };
}

const tasks = {
  async conversation() {
    const { agent, seen, result } = await whole();
    const first = shown(agent);
    await agent.runAgent(); // the same message: nothing is run, and nothing is shown twice
    return { result, seen, first, again: shown(agent) };
  },

  async interrupts() {
    const told = [];
    for (const payload of [{ approved: true }, { approved: false }, undefined]) {
      const { agent } = open(HttpAgent, "remove");
      say(agent, "remove it");
      await agent.runAgent();
      const [interrupt] = agent.pendingInterrupts;
      const refused = await failed(agent.runAgent());
      const status = payload === undefined ? "cancelled" : "resolved";
      const resume = [{ interruptId: interrupt.id, status, ...(payload && { payload }) }];
      let code;
      const subscriber = { onRunErrorEvent: ({ event }) => { code = event.code; } };
      await agent.runAgent({ resume }, subscriber);
      told.push({ reason: interrupt.reason, refused: refused?.message, code, messages: shown(agent) });
    }
    const { agent } = open(HttpAgent, "question");
    say(agent, "ask me");
    await agent.runAgent();
    const [interrupt] = agent.pendingInterrupts;
    const answer = (payload) => agent.runAgent({ resume: [{ interruptId: interrupt.id, status: "resolved", payload }] });
    const wrong = await failed(answer("many"));
    await answer(7);
    return { told, schema: interrupt.responseSchema, wrong, text: agent.messages.at(-1).content };
  },

  async cuts({ Resumable }) {
    const { agent: uncut, seen: all } = await whole();
    const expected = JSON.stringify(shown(uncut));
    const differing = [];
    const cutAfter = async (events) => {
      const plain = open(HttpAgent, "work", { events });
      say(plain.agent, "hello");
      const error = await failed(plain.agent.runAgent());
      plain.agent.fetch = watching(plain.seen);
      const { result } = await plain.agent.runAgent();
      if (JSON.stringify(shown(plain.agent)) !== expected || result.runs !== 1 || !error) {
        differing.push({ client: "plain", events, error, result, messages: shown(plain.agent) });
      }
      const resumed = open(Resumable, "work", { events });
      say(resumed.agent, "hello");
      const types = [];
      const again = await resumed.agent.runAgent({}, { onEvent: ({ event }) => { types.push(event.type); } });
      if (JSON.stringify(shown(resumed.agent)) !== expected || again.result.runs !== 1) {
        differing.push({ client: "resumable", events, result: again.result, messages: shown(resumed.agent) });
      }
      // Pieces of text may be joined, usage is not repeated, and a result may come before a text.
      const once = (types) => types.filter((type) => !["CUSTOM", "TEXT_MESSAGE_CONTENT"].includes(type)).sort();
      if (String(once(types)) !== String(once(all))) {
        differing.push({ client: "resumable", events, types });
      }
    };
    await Promise.all(all.slice(1).map((_, index) => cutAfter(index + 1)));
    return { events: all.length, differing };
  },

  async stops() {
    const { agent } = open(HttpAgent, "wait");
    say(agent, "wait");
    let code;
    let stopped;
    await agent.runAgent({}, {
      onTextMessageContentEvent: async () => {
        const body = JSON.stringify({ threadId: agent.threadId });
        stopped ??= fetch(`${argument.url}/ag-ui/wait/stop`, { method: "POST", headers, body }).then((answer) => answer.json());
      },
      onRunErrorEvent: ({ event }) => { code = event.code; },
    });
    return { code, stopped: (await stopped).stopped.length };
  },

  async refusals() {
    const wrong = open(HttpAgent, "work", { headers: { Authorization: "Bearer wrong" } });
    say(wrong.agent, "hello");
    const unknown = open(HttpAgent, "nobody");
    say(unknown.agent, "hello");
    const image = open(HttpAgent, "work");
    const source = { type: "url", value: "https://example.com/a.png", mimeType: "image/png" };
    say(image.agent, [{ type: "image", source }]);
    return {
      token: await failed(wrong.agent.runAgent()),
      agent: await failed(unknown.agent.runAgent()),
      image: await failed(image.agent.runAgent()),
    };
  },

  async busy() {
    const first = open(HttpAgent, "work");
    const second = open(HttpAgent, "work", { threadId: first.agent.threadId });
    say(first.agent, "hello");
    say(second.agent, "hello");
    const results = await Promise.all([first.agent.runAgent(), second.agent.runAgent()]);
    return results.map(({ result }) => result.runs).sort();
  },

  async rate() {
    for (let count = 1; ; count++) {
      const { agent } = open(HttpAgent, "quick");
      say(agent, "hello");
      const error = await failed(agent.runAgent());
      if (error) return { count, error };
    }
  },

  async restart({ Resumable }) {
    const { agent } = open(Resumable, "wait");
    say(agent, "wait");
    let code;
    let isStarted = false;
    await agent.runAgent({}, {
      onTextMessageContentEvent: () => {
        if (!isStarted) console.log(JSON.stringify({ started: true }));
        isStarted = true;
      },
      onRunErrorEvent: ({ event }) => { code = event.code; },
    });
    return { code, text: agent.messages.at(-1).content };
  },
};

const { code } = transformSync(argument.source, { loader: "ts" });
const file = new URL(`./resumable-${process.pid}.mjs`, import.meta.url);
writeFileSync(file, code);
const { ResumableAgent } = await import(file);
const result = await tasks[argument.task]({ Resumable: ResumableAgent });
console.log(JSON.stringify({ result, warnings }));
