/** The golden examples, which the Python tests read too. */

import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { decode } from "../../src/protocol/decode.js";
import { outgoingFault } from "../../src/protocol/encode.js";

interface Example {
  readonly name: string;
  readonly frame: unknown;
  readonly valid: boolean;
}

const golden = (name: string): Example[] =>
  JSON.parse(readFileSync(new URL(`../../../tests/golden/${name}.json`, import.meta.url), "utf8")) as Example[];

const fromServer = golden("server_to_client");
const fromClient = golden("client_to_server").filter(({ name }) => !name.startsWith("text: "));

describe("a frame of the server", () => {
  it.each(fromServer)("$name", ({ frame, valid }) => {
    const decoded = decode(JSON.stringify(frame));
    expect(decoded).toMatchObject({ ok: valid });
    if (decoded.ok) expect(decoded.message).toEqual(frame);
  });

  it.each(fromServer.filter(({ valid }) => valid))("$name: without any one field, or with null in it", ({ frame }) => {
    const { type, payload } = frame as { type: string; payload: Record<string, unknown> };
    if (type === "pong") return;
    const optional = new Set(["position", "run_status", "step_number", "total_steps", "truncated", "abandoned", "reason", "result", "error_id", "retry_after_ms", "schema", "tool_name", "answer", "cost", "runs", "offset_from", "thread", "attachments", "files"]);
    for (const name of Object.keys(payload)) {
      if (name === "user_id" && type === "agent_answered") continue;
      if (optional.has(name) || (name === "error" && type !== "error")) continue;
      if (name === "arguments" && type === "agent_asking") continue;
      const { [name]: _, ...rest } = payload;
      expect(decode(JSON.stringify({ ...(frame as object), payload: rest })).ok, name).toBe(false);
      if (name === "arguments") continue; // any JSON, null too
      const wrong = { ...payload, [name]: null };
      expect(decode(JSON.stringify({ ...(frame as object), payload: wrong })).ok, name).toBe(false);
    }
  });

  it("has an example of every type", () => {
    const types = new Set(fromServer.map(({ frame }) => (frame as { type: string }).type));
    expect(types.size).toBe(29);
  });
});

describe("a frame of a client", () => {
  it.each(fromClient)("$name", ({ frame, valid }) => {
    const fault = outgoingFault(frame);
    expect(fault === null, String(fault)).toBe(valid);
  });
});

describe("an invalid frame", () => {
  it.each(["", " ", "ping", "5", "null", "[]", '"x"', "{}", '{"type": 5}', '{"type": "nonsense", "timestamp": 1}'])(
    "%j",
    (data) => expect(decode(data).ok).toBe(false),
  );

  it("reports the number of an event that cannot be read", () => {
    const frame = { type: "partial_result", payload: {}, timestamp: 1, seq: 7 };
    expect(decode(JSON.stringify(frame))).toEqual({ ok: false, fault: "$.payload.run_id: missing", seq: 7 });
  });

  it("is not a frame with the additional fields of a newer server", () => {
    const frame = { type: "heartbeat", payload: { server_time: 1, load: 2 }, timestamp: 1, region: "eu" };
    expect(decode(JSON.stringify(frame)).ok).toBe(true);
  });

  it("is a control frame with a number, or an event without one", () => {
    expect(decode('{"type": "pong", "payload": {}, "timestamp": 1, "seq": 1}').ok).toBe(false);
    const event = { type: "partial_result", payload: { run_id: "r", content: "" }, timestamp: 1 };
    expect(decode(JSON.stringify(event)).ok).toBe(false);
    expect(decode(JSON.stringify({ ...event, seq: 2, seq_from: 3 })).ok).toBe(false);
    expect(decode(JSON.stringify({ ...event, seq: true })).ok).toBe(false);
  });
});
