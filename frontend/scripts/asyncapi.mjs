/**
 * Checks docs/asyncapi.yaml with the official parser, and the TypeScript types against it.
 *
 * The payload of each message in the document becomes a type, and the compiler compares it with the
 * one in src/protocol/messages.ts: the same fields, the same optional ones, the same values.
 */

import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { Parser } from "@asyncapi/parser";
import ts from "typescript";
import { parse } from "yaml";

const root = fileURLToPath(new URL("..", import.meta.url));
const text = readFileSync(new URL("../../docs/asyncapi.yaml", import.meta.url), "utf8");

const ERROR = 0; // a diagnostic's severity
const diagnostics = await new Parser().validate(text);
const errors = diagnostics.filter(({ severity }) => severity === ERROR);
for (const { path, message } of errors) console.error(`${path.join(".")}: ${message}`);
if (errors.length > 0) process.exit(1);
console.log(`docs/asyncapi.yaml: valid (${diagnostics.length} hints)`);

const { components } = parse(text);

/** A schema as a type. Knows only the keywords that the document uses, and fails at others. */
function typeOf(schema) {
  if (schema.$ref !== undefined) {
    const name = schema.$ref.split("/").at(-1);
    if (name === "JsonValue" || name === "JsonObject") return `Ours.${name}`;
    if (name === "OpenPayload") return "Ours.JsonObject";
    return typeOf(components.schemas[name]);
  }
  if (schema.const !== undefined) return JSON.stringify(schema.const);
  if (schema.enum !== undefined) return schema.enum.map((one) => JSON.stringify(one)).join(" | ");
  if (schema.not?.type === "null") return "Ours.JsonValue"; // types do not exclude null
  if (schema.oneOf !== undefined) return schema.oneOf.map(typeOf).join(" | ");
  switch (schema.type) {
    case "string":
    case "number":
    case "boolean":
      return schema.type;
    case "integer":
      return "number";
    case "array":
      return `readonly (${typeOf(schema.items)})[]`;
    case "object": {
      if (schema.properties === undefined) return "Ours.JsonObject";
      const fields = Object.entries(schema.properties).map(([name, field]) => {
        const optional = schema.required?.includes(name) ? "" : "?";
        return `readonly ${name}${optional}: ${typeOf(field)}`;
      });
      return `{ ${fields.join("; ")} }`;
    }
    default:
      throw new Error(`no type for ${JSON.stringify(schema)}`);
  }
}

const lines = [
  'import type * as Ours from "../src/protocol/messages.js";',
  "declare const absent: unique symbol;",
  "type IsOptional<T, K extends keyof T> = Record<never, never> extends Pick<T, K> ? true : false;",
  // Every field is made required, so that an additional field on either side is a difference.
  "type Plain<T> = [Ours.JsonValue] extends [T] ? T : string extends keyof T ? T",
  "  : T extends readonly (infer I)[] ? readonly Plain<I>[]",
  "  : T extends object ? { [K in keyof T]-?: IsOptional<T, K> extends true",
  "      ? Plain<Exclude<T[K], undefined>> | typeof absent : Plain<T[K]> } : T;",
  "type Same<A, B> = [Plain<A>] extends [Plain<B>] ? ([Plain<B>] extends [Plain<A>] ? true : false) : false;",
  "type Server = Ours.ControlPayloads & Ours.EventPayloads;",
];
const where = new Map();
const names = { client: [], server: [] };
for (const [key, message] of Object.entries(components.messages)) {
  // The short form of another message, as which the client reads it.
  if (message.payload.type === "array") continue;
  const side = key.startsWith("client") ? "client" : "server";
  names[side].push(message.name);
  const ours = side === "client" ? "Ours.ClientPayloads" : "Server";
  where.set(lines.length, `${key}.payload`);
  const payload = typeOf(message.payload.properties.payload);
  lines.push(`export const ${key}: Same<${payload}, ${ours}["${message.name}"]> = true;`);
}
for (const [side, ours] of [["client", "Ours.ClientPayloads"], ["server", "Server"]]) {
  where.set(lines.length, `the ${side}'s types`);
  const union = names[side].map((name) => JSON.stringify(name)).join(" | ");
  lines.push(`export const ${side}Types: Same<${union}, keyof ${ours}> = true;`);
}

const file = `${root}scripts/asyncapi-types.ts`; // only in memory
const config = ts.readConfigFile(`${root}tsconfig.core.json`, ts.sys.readFile).config;
const base = ts.readConfigFile(`${root}tsconfig.json`, ts.sys.readFile).config;
const { options } = ts.convertCompilerOptionsFromJson(
  { ...base.compilerOptions, ...config.compilerOptions },
  root,
);
const host = ts.createCompilerHost(options);
const { getSourceFile, fileExists } = host;
host.fileExists = (name) => name === file || fileExists(name);
host.getSourceFile = (name, ...rest) =>
  name === file
    ? ts.createSourceFile(name, lines.join("\n"), options.target)
    : getSourceFile(name, ...rest);
const program = ts.createProgram([file], options, host);
const faults = ts.getPreEmitDiagnostics(program);
for (const fault of faults) {
  const line = fault.file?.fileName === file ? fault.file.getLineAndCharacterOfPosition(fault.start).line : -1;
  const what = where.get(line) ?? "the types";
  console.error(`${what}: the document and src/protocol/messages.ts differ`);
  console.error(`  ${ts.flattenDiagnosticMessageText(fault.messageText, "\n  ")}`);
}
if (faults.length > 0) process.exit(1);
console.log(`src/protocol/messages.ts: the same ${where.size - 2} payloads`);
