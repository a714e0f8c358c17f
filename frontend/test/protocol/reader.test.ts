/** The frames of one socket, in the forms of `netra.v2`. */

import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { readBinary, writeBinary } from "../../src/protocol/binary.js";
import { decode } from "../../src/protocol/decode.js";
import { dataFault } from "../../src/protocol/encode.js";
import type { EventMessage, ServerMessage } from "../../src/protocol/messages.js";
import { FrameReader } from "../../src/protocol/reader.js";
import { binaryFrame, CompactWriter } from "../support/compact.js";
import { FEATURES, LIMITS as limits } from "../support/defaults.js";
import { Random } from "../support/random.js";

interface Example {
  readonly name: string;
  /** `v1`: the same message in `netra.v1`; absent: it does not differ; null: the frame is invalid. */
  readonly frames: readonly { readonly v2: unknown; readonly v1?: object | null }[];
}

const golden = JSON.parse(
  readFileSync(new URL("../../../tests/golden/server_to_client_v2.json", import.meta.url), "utf8"),
) as Example[];

interface BinaryExample {
  readonly name: string;
  readonly binary: ArrayBuffer;
  /** The JSON frame in it; null: the frame is invalid. */
  readonly frame?: object | null;
  /** The bytes in it, as base64. */
  readonly data?: string;
  readonly valid?: boolean;
}

const bytesOf = (base64: string): ArrayBuffer => new Uint8Array(Buffer.from(base64, "base64")).buffer;
const binary = (name: string): BinaryExample[] =>
  (
    JSON.parse(
      readFileSync(new URL(`../../../tests/golden/${name}_v2_binary.json`, import.meta.url), "utf8"),
    ) as (Omit<BinaryExample, "binary"> & { binary: string })[]
  ).map((example) => ({ ...example, binary: bytesOf(example.binary) }));

/** The first frame, with the fields that examples leave empty. */
function complete(frame: unknown): unknown {
  const { type, payload } = frame as { type?: unknown; payload?: object };
  return type === "connection_established" ? { ...(frame as object), payload: { ...payload, features: FEATURES, limits } } : frame;
}

const NOW = 1_640_995_200_250; // ms
const reader = (protocol = "netra.v2", now = NOW): FrameReader => new FrameReader({ protocol }, () => now);

const hello = {
  type: "connection_established",
  payload: {
    connection_id: "conn_1",
    session_id: "sess_1",
    user_id: "alice",
    server_time: 1,
    heartbeat_interval: 30_000,
    features: FEATURES,
    limits,
    resume: { verdict: "new", replayed: 0, last_seq: 0, runs: [] as object[] },
    user_room: "user:x",
    agents: [],
  },
  timestamp: NOW / 1000,
};
const withRuns = (...runs: object[]): object => {
  const resumed = { thread_id: "t", status: "running", content: "", correlation_id: "c-1" };
  const resume = { ...hello.payload.resume, verdict: "exact", runs: runs.map((run) => ({ ...resumed, ...run })) };
  return { ...hello, payload: { ...hello.payload, resume } };
};
const started = (run_id: string, run: number, seq: number, more: object = {}): object => ({
  type: "agent_started",
  payload: { run_id, agent_name: "echo", thread_id: "t", attempt: 1, run, ...more },
  timestamp: 1,
  correlation_id: `c-${run_id}`,
  seq,
});
const ended = (run_id: string, seq: number): object => ({
  type: "agent_completed",
  payload: { run_id, status: "completed", duration_ms: 1 },
  timestamp: 1,
  seq,
});

describe("golden examples", () => {
  it.each(golden)("$name", ({ frames }) => {
    const frameReader = reader();
    for (const { v2, v1 } of frames) {
      const decoded = frameReader.read(JSON.stringify(complete(v2)));
      expect(decoded.ok, JSON.stringify(v2)).toBe(v1 !== null);
      // Of a message in both forms the numbers of the runs are the only difference.
      if (decoded.ok) expect(decoded.message).toMatchObject(complete(v1 ?? v2) as object);
      else expect(decoded.seq).toBe(Array.isArray(v2) && Number.isSafeInteger(v2[0]) && v2[0] > 0 ? v2[0] : null);
    }
  });

  it.each(binary("server_to_client"))("of a binary frame: $name", ({ binary: frame, frame: json, data }) => {
    const decoded = reader().read(frame);
    expect(decoded.ok).toBe(json !== null);
    if (!decoded.ok) return;
    expect(decoded.message).toMatchObject(json as object);
    const { data: found } = decoded.message as { data?: ArrayBuffer };
    expect(new Uint8Array(found ?? new ArrayBuffer(0))).toEqual(new Uint8Array(bytesOf(data ?? "")));
  });

  it.each(binary("client_to_server").filter(({ valid }) => valid))("of a client's binary frame: $name", ({ binary: frame }) => {
    const parts = readBinary(frame);
    if (typeof parts === "string") throw new Error(parts);
    expect(new Uint8Array(writeBinary(parts.json, parts.data))).toEqual(new Uint8Array(frame));
    const { type, payload } = JSON.parse(parts.json) as { type: string; payload: { attachments: { media_type: string }[] } };
    const { attachments: [attachment], ...rest } = payload;
    expect(dataFault(type, rest, { media_type: attachment?.media_type, bytes: parts.data })).toBe(null);
  });

  it("are no frames of netra.v1", () => {
    for (const { v2 } of golden.flatMap(({ frames }) => frames)) {
      if (Array.isArray(v2)) expect(reader("netra.v1").read(JSON.stringify(v2))).toEqual(decode(JSON.stringify(v2)));
    }
    expect(reader("netra.v1").read("[3,\"a\"]")).toEqual({ ok: false, fault: "$: expected an object, got an array", seq: null });
  });
});

describe("a delta", () => {
  it("has the time of its arrival, by the server's clock, and the correlation id of its run", () => {
    let now = NOW - 60_000; // this clock is a minute behind
    const frameReader = new FrameReader({ protocol: "netra.v2" }, () => now);
    frameReader.read(JSON.stringify(hello));
    frameReader.read(JSON.stringify(started("r", 1, 2)));
    now += 1_000;
    expect(frameReader.read('[3,"a"]')).toEqual({
      ok: true,
      message: {
        type: "partial_result",
        payload: { run_id: "r", content: "a" },
        timestamp: (NOW + 1_000) / 1000,
        correlation_id: "c-r",
        seq: 3,
      },
    });
  });

  it.each([
    ["[3]", "$: expected 2 to 4 fields, got 1"],
    ["[3,4]", "$[1]: expected a string, got 4"],
    ["[3,null]", "$[1]: expected a string, got null"],
    ['[3,"a",null]', "$[2]: expected an integer from 1, got null"],
    ['[3,"a",1.5]', "$[2]: expected an integer from 1, got 1.5"],
    ['[3,"a",9]', "$[2]: expected the number of a run, got 9"],
    ['[3,"a",1,4]', "$[3]: expected an integer from 1 to 3, got 4"],
    ['[3,"a",1,0]', "$[3]: expected an integer from 1 to 3, got 0"],
    ['[3,"a",1,2,1]', "$: expected 2 to 4 fields, got 5"],
  ])("%s is invalid, and its number counts", (frame, fault) => {
    const frameReader = reader();
    frameReader.read(JSON.stringify(withRuns({ run_id: "r", run: 1 })));
    const merged = frame === '[3,"a",1,2,1]' ? { seq_from: 2 } : {};
    expect(frameReader.read(frame)).toEqual({ ok: false, fault, seq: 3, ...merged });
  });

  it.each(['["3","a"]', "[true,\"a\"]", "[0,\"a\"]", "[-1,\"a\"]", "[1.5,\"a\"]", "[]", "[null]", "[9007199254740992,\"a\"]"])("%s has no number", (frame) => {
    expect(reader().read(frame)).toMatchObject({ ok: false, seq: null });
  });

  it("at the largest number, and one that stands for itself only", () => {
    const frameReader = reader();
    frameReader.read(JSON.stringify(withRuns({ run_id: "r", run: 1 })));
    const last = Number.MAX_SAFE_INTEGER;
    expect(frameReader.read(`[${last},"a",1,${last}]`)).toMatchObject({ ok: true, message: { seq: last, seq_from: last } });
  });

  it("belongs to no run behind a start that cannot be read", () => {
    const frameReader = reader();
    frameReader.read(JSON.stringify(started("r", 1, 2)));
    expect(frameReader.read(JSON.stringify(started("s", 2, 3, { attempt: 0 }))).ok).toBe(false);
    expect(frameReader.read('[4,"a"]')).toMatchObject({ ok: false, seq: 4 });
    expect(frameReader.read('[5,"a",1]')).toMatchObject({ ok: true, message: { payload: { run_id: "r" } } });
  });

  it("belongs to the same run behind another frame that cannot be read", () => {
    const frameReader = reader();
    frameReader.read(JSON.stringify(started("r", 1, 2)));
    for (const frame of ["nonsense", "{}", '{"type":"heartbeat"}', '{"type":"of_the_future","payload":{},"timestamp":1,"seq":3}']) {
      expect(frameReader.read(frame).ok).toBe(false);
    }
    expect(frameReader.read('[4,"a"]')).toMatchObject({ ok: true, message: { payload: { run_id: "r" } } });
  });

  it("belongs to runs of its own socket only", () => {
    const [first, second] = [reader(), reader()];
    first.read(JSON.stringify(started("r", 1, 2)));
    second.read(JSON.stringify(withRuns({ run_id: "s", run: 1 })));
    expect(first.read('[3,"a",1]')).toMatchObject({ message: { payload: { run_id: "r" } } });
    expect(second.read('[3,"a",1]')).toMatchObject({ message: { payload: { run_id: "s" } } });
    expect(second.read('[4,"a"]').ok).toBe(false);
  });

  it("of a run that has ended is invalid", () => {
    const frameReader = reader();
    frameReader.read(JSON.stringify(started("r", 1, 2)));
    frameReader.read(JSON.stringify(ended("r", 3)));
    expect(frameReader.read('[4,"a"]').ok).toBe(false);
    expect(frameReader.read('[4,"a",1]').ok).toBe(false);
  });
});

describe("a binary frame", () => {
  const result = (bytes: number, more: object = {}): string =>
    JSON.stringify({
      type: "binary_result",
      payload: { run_id: "r", media_type: "image/png", file_id: "f-語", bytes },
      timestamp: 1,
      seq: 5,
      ...more,
    });
  const three = Uint8Array.of(0, 127, 255);

  it("is the message with its bytes", () => {
    const decoded = reader().read(binaryFrame(result(3), three));
    expect(decoded).toMatchObject({ ok: true, message: { type: "binary_result", seq: 5, payload: { file_id: "f-語", bytes: 3 } } });
    if (!decoded.ok || decoded.message.type !== "binary_result") throw new Error("not read");
    expect(new Uint8Array(decoded.message.data ?? new ArrayBuffer())).toEqual(three);
    // A view of the whole frame would keep all of it in memory.
    expect(decoded.message.data?.byteLength).toBe(3);
  });

  it("may have no bytes, and a text frame is a reference", () => {
    expect(reader().read(binaryFrame(result(0), new Uint8Array()))).toMatchObject({ ok: true });
    const decoded = reader().read(result(300_000));
    expect(decoded).toMatchObject({ ok: true, message: { payload: { bytes: 300_000 } } });
    expect(decoded.ok && "data" in decoded.message).toBe(false);
  });

  it.each([
    ["of 3 bytes", new ArrayBuffer(3), null, "$: expected at least 4 bytes, got 3"],
    ["whose JSON is longer than it", binaryFrame(result(0), new Uint8Array(), 0xffff_ffff), null, "$: expected a JSON frame of 4294967295 bytes, got 124"],
    ["with no JSON", binaryFrame("", three), null, "$: expected JSON"],
    ["with JSON that is no frame", binaryFrame("[3,\"a\"]", three), null, "$: expected an object, got an array"],
    ["that is not UTF-8", binaryFrame(Uint8Array.of(0xc3, 0x28), three), null, "$: expected UTF-8"],
    ["with too few bytes", binaryFrame(result(4), three), 5, "$.payload.bytes: expected 3, got 4"],
    ["with too many bytes", binaryFrame(result(2), three), 5, "$.payload.bytes: expected 3, got 2"],
    ["of another type", binaryFrame(JSON.stringify(ended("r", 7)), three), 7, "$.type: expected binary_result with bytes, got agent_completed"],
    ["with a wrong field", binaryFrame(result(3, { seq: 6, payload: { run_id: "r" } }), three), 6, "$.payload.media_type: missing"],
  ])("%s is invalid", (_, frame, seq, fault) => {
    expect(reader().read(frame)).toEqual({ ok: false, fault, seq });
  });

  it("of a type of a newer server is ignored", () => {
    const frame = binaryFrame('{"type":"of_the_future","payload":{},"timestamp":1,"seq":3}', three);
    expect(reader().read(frame)).toMatchObject({ ok: false, seq: 3, isUnknownType: true });
  });

  it("is no frame of netra.v1", () => {
    expect(reader("netra.v1").read(binaryFrame(result(3), three))).toMatchObject({ ok: false, fault: "$: expected a text frame, got a binary one" });
  });
});

/** The messages of a session with several runs at once, as `netra.v1` has them. */
function script(random: Random): ServerMessage[] {
  const timestamp = NOW / 1000;
  const messages: ServerMessage[] = [];
  const active: string[] = [];
  let seq = random.below(1_000);
  let count = 0;
  const add = (type: EventMessage["type"], run: string, payload: object, more: object = {}): void => {
    seq += 1;
    const event = { type, payload: { run_id: run, ...payload }, timestamp, correlation_id: `key-${run}`, seq, ...more };
    messages.push(event as unknown as ServerMessage);
  };
  const start = (run: string, attempt: number): void =>
    add("agent_started", run, { agent_name: "echo", thread_id: "t", attempt });
  const listed = Array.from({ length: random.below(3) }, () => ({ run_id: `run-${(count += 1)}`, status: "running" }));
  for (const { run_id } of listed) active.push(run_id);
  const runs = listed.map((run) => ({ ...run, thread_id: "t", content: "", correlation_id: `key-${run.run_id}` }));
  messages.push({ ...hello, payload: { ...hello.payload, resume: { ...hello.payload.resume, runs } } } as unknown as ServerMessage);
  for (let step = 0; step < 60; step += 1) {
    const run = active.length === 0 ? null : random.one(active);
    const choice = random.below(10);
    if (run === null || choice === 0) {
      const id = `run-${(count += 1)}`;
      active.push(id);
      start(id, 1);
    } else if (choice === 1) start(run, 2);
    else if (choice === 2) {
      active.splice(active.indexOf(run), 1);
      add("agent_completed", run, { status: "completed", duration_ms: 1 });
    } else if (choice === 3) add("agent_thinking", run, { thought: random.text(5) });
    else if (choice === 4) {
      const { buffer: data } = random.bytes(20);
      add("binary_result", run, { media_type: "a/b", file_id: `f-${step}`, bytes: data.byteLength }, { data });
    } else if (choice === 5) {
      const seq_from = seq + 1;
      seq += random.below(5);
      add("partial_result", run, { content: random.text(8) }, { seq_from });
    } else add("partial_result", run, { content: random.text(8) });
  }
  return messages;
}

/** Without the numbers of the runs, which only `netra.v2` has. */
function withoutNumbers(message: ServerMessage): unknown {
  const copy = structuredClone(message) as { payload: { run?: number; resume?: { runs: { run?: number }[] } } };
  delete copy.payload.run;
  for (const run of copy.payload.resume?.runs ?? []) delete run.run;
  return copy;
}

describe("any session", () => {
  it.each(Array.from({ length: 100 }, (_, seed) => seed))("is the same in both subprotocols (seed %i)", (seed) => {
    const random = new Random(seed);
    const messages = script(random);
    const writer = new CompactWriter();
    const frameReader = reader();
    let short = 0;
    for (const message of messages) {
      const frame = writer.frame(message);
      if (typeof frame === "string" && frame.startsWith("[")) short += 1;
      const decoded = frameReader.read(frame);
      expect(decoded.ok && withoutNumbers(decoded.message)).toEqual(message);
    }
    expect(short).toBe(messages.filter(({ type }) => type === "partial_result").length);
  });

  it("with bytes that were changed on their way is read, or reported, and never throws", () => {
    for (let seed = 0; seed < 200; seed += 1) {
      const random = new Random(seed);
      const [writer, frameReader] = [new CompactWriter(), reader()];
      for (const message of script(random)) {
        const frame = writer.frame(message);
        const bytes = new Uint8Array(typeof frame === "string" ? new TextEncoder().encode(frame) : frame);
        for (let n = random.below(3); n > 0; n -= 1) bytes[random.below(bytes.length)] = random.below(256);
        const cut = bytes.slice(0, random.below(4) === 0 ? random.below(bytes.length) : bytes.length);
        const decoded = frameReader.read(typeof frame === "string" ? new TextDecoder().decode(cut) : cut.buffer);
        if (!decoded.ok) expect(decoded.fault).toMatch(/^\$/);
      }
    }
  });
});
