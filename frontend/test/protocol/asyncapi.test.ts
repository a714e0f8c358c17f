/** The schemas of the AsyncAPI document agree with the golden examples and the client's checks. */

import { readFileSync } from "node:fs";
import { Ajv, type ValidateFunction } from "ajv";
import { describe, expect, it } from "vitest";
import { parse } from "yaml";
import { decode } from "../../src/protocol/decode.js";
import { outgoingFault } from "../../src/protocol/encode.js";
import { FrameReader } from "../../src/protocol/reader.js";
import { closeKind } from "../../src/core/retry-rules.js";

interface Example {
  readonly name: string;
  readonly frame: unknown;
  readonly valid: boolean;
}

const repository = new URL("../../../", import.meta.url);
const read = (path: string): string => readFileSync(new URL(path, repository), "utf8");
const document = parse(read("docs/asyncapi.yaml")) as {
  components: { messages: Record<string, { name: string; payload: object }> };
  channels: { connection: { "x-close-codes": Record<string, { again: string }> } };
};
const golden = (name: string): Example[] => JSON.parse(read(`tests/golden/${name}.json`)) as Example[];

const ajv = new Ajv({ strict: false });
ajv.addSchema(document, "asyncapi");

function schemas(side: "client" | "server"): Map<string, ValidateFunction> {
  const own = Object.entries(document.components.messages).filter(([key]) => key.startsWith(side));
  return new Map(
    own.map(([key, { name }]) => [name, ajv.compile({ $ref: `asyncapi#/components/messages/${key}/payload` })]),
  );
}

function fits(all: Map<string, ValidateFunction>, frame: unknown): boolean {
  const { type } = (typeof frame === "object" && frame !== null ? frame : {}) as { type?: unknown };
  const schema = typeof type === "string" ? all.get(type) : undefined;
  return schema !== undefined && schema(frame);
}

/** A frame, and its variants with one field removed, changed or added. */
function* variants(value: unknown): Iterable<unknown> {
  yield value;
  if (Array.isArray(value)) {
    for (const [index, item] of value.entries()) {
      for (const other of variants(item)) yield value.map((kept: unknown, at) => (at === index ? other : kept));
    }
  } else if (typeof value === "object" && value !== null) {
    for (const [name, inner] of Object.entries(value)) {
      const { [name]: _, ...rest } = value as Record<string, unknown>;
      yield rest;
      for (const wrong of [null, true, 5, -1, 1.5, "", "text", [], {}]) yield { ...value, [name]: wrong };
      for (const other of variants(inner)) yield { ...value, [name]: other };
    }
    yield { ...value, unknown_field: 1 };
  }
}

const SIZE = "ping: payload of "; // a schema cannot limit a size in bytes

describe("the document and the server's examples", () => {
  const all = schemas("server");

  it.each(golden("server_to_client"))("$name", ({ frame, valid }) => {
    expect(fits(all, frame)).toBe(valid);
    let count = 0;
    for (const variant of variants(frame)) {
      count += 1;
      const seen = JSON.stringify(variant);
      // The numbers of a merged event are ordered, which a schema cannot express either.
      if (seen.includes('"seq_from"')) continue;
      expect(decode(seen).ok, seen).toBe(fits(all, variant));
    }
    expect(count).toBeGreaterThan(20);
  });
});

it("has the same short forms of text as the client reads", () => {
  const schema = schemas("server").get("compact_delta");
  const sessions = JSON.parse(read("tests/golden/server_to_client_v2.json")) as { frames: { v2: unknown }[] }[];
  const deltas = sessions.flatMap(({ frames }) => frames.map(({ v2 }) => v2)).filter((v2): v2 is unknown[] => Array.isArray(v2));
  const started = (run: number): string =>
    JSON.stringify({ type: "agent_started", payload: { run_id: "r", agent_name: "a", thread_id: "t", attempt: 1, run }, timestamp: 1, seq: 1 });
  let count = 0;
  for (const delta of deltas) {
    for (const variant of [...variants(delta), ...delta.map((_, at) => delta.slice(0, at)), [...delta, 1]] as unknown[][]) {
      // A schema can neither express the order of the numbers, nor which runs there are.
      if (variant.length > 3 && Number(variant[3]) > Number(variant[0])) continue;
      const reader = new FrameReader({ protocol: "netra.v2" }, () => 0);
      for (const run of [1, 2, 5]) reader.read(started(run));
      expect(reader.read(JSON.stringify(variant)).ok, JSON.stringify(variant)).toBe(schema?.(variant));
      count += 1;
    }
  }
  expect(count).toBeGreaterThan(200);
});

describe("fields that the document does not have", () => {
  interface Schema {
    properties?: Record<string, Schema>;
    additionalProperties?: boolean;
    [name: string]: unknown;
  }

  /** The same schema without additional properties. */
  function closed(schema: unknown): unknown {
    if (Array.isArray(schema)) return schema.map(closed);
    if (typeof schema !== "object" || schema === null) return schema;
    const inside = Object.fromEntries(Object.entries(schema).map(([name, value]) => [name, closed(value)]));
    return (schema as Schema).properties === undefined ? inside : { ...inside, additionalProperties: false };
  }

  const strict = new Ajv({ strict: false });
  strict.addSchema(closed(document) as object, "closed");

  it.each(golden("server_to_client"))("are not in the server's example: $name", ({ frame }) => {
    const { type } = frame as { type: string };
    const key = Object.keys(document.components.messages).find(
      (name) => name.startsWith("server") && document.components.messages[name]?.name === type,
    );
    const check = strict.compile({ $ref: `closed#/components/messages/${key}/payload` });
    expect(check(frame), JSON.stringify(check.errors)).toBe(true);
  });
});

it("the document and the client agree about every close code", () => {
  const codes = document.channels.connection["x-close-codes"];
  const after = { retry: "yes", token: "token", stop: "asked", done: "asked" } as const;
  for (let code = 1000; code < 5000; code += 1) {
    const { after: then, error } = closeKind(code);
    // The error of an unknown code contains its number.
    const isKnown = !error.includes(`(${code})`);
    expect(codes[code]?.again, `${code}`).toBe(isKnown ? after[then] : undefined);
  }
});

describe("the document and the client's examples", () => {
  const all = schemas("client");
  const examples = golden("client_to_server").filter(({ name }) => !name.startsWith("text: ") && !name.startsWith(SIZE));

  it.each(examples)("$name", ({ frame, valid }) => {
    expect(fits(all, frame)).toBe(valid);
    for (const variant of variants(frame)) {
      const seen = JSON.stringify(variant);
      expect(outgoingFault(variant) === null, seen).toBe(fits(all, variant));
    }
  });
});
