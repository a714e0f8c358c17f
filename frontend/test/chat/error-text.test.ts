/** The texts of errors on the chat page: each code of the server and the client in plain words. */

import { readFileSync } from "node:fs";
import { expect, it } from "vitest";
import type { ErrorBody } from "../../src/index.js";

interface Texts {
  readonly explain: (error: ErrorBody) => { text: string; help: string; details: string | null };
}
const source = new URL("../../pages/shared/errorText.ts", import.meta.url).pathname;
const { explain } = (await import(/* @vite-ignore */ source)) as Texts;

const server = readFileSync(new URL("../../../netra_trio/protocol/codes.py", import.meta.url), "utf8");
const codes = [...server.matchAll(/^ {4}([A-Z_]+) = "\1"/gm)].flatMap(([, code]) => code ?? []);

/** Codes whose own texts are for the reader: an agent, the schema of a question, or an administrator wrote them. */
const OWN = new Set(["AGENT_ERROR", "ANSWER_REJECTED", "USER_NOT_FOUND", "USER_DISABLED", "CONNECTION_LIMIT_EXCEEDED"]);

it("knows the codes of the server", () => {
  expect(codes.length).toBeGreaterThan(30);
});

it.each(codes.filter((code) => !OWN.has(code)))("says %s in plain words", (code) => {
  const error = { code, error: "$.payload: expected an object", help: "Set WEBSOCKET_X.", timestamp: 1, recoverable: true, error_id: "e-1" };
  const { text, help, details } = explain(error);
  expect(text).not.toBe(error.error);
  expect(`${text} ${help}`).not.toMatch(/[A-Z]{2}|_|\$|token|frame|origin|JSON/);
  expect(details).toBe(`${code}: ${error.error} ${error.help} Error id: e-1`);
});

it("keeps the text of an agent, and the id of its error", () => {
  const error = { code: "AGENT_ERROR", error: "Come back tomorrow.", help: "Quote the error_id.", timestamp: 1, recoverable: true, error_id: "e-1" };
  const { text, help, details } = explain(error);
  expect(text).toBe("Come back tomorrow.");
  expect(help).not.toContain("error_id");
  expect(details).toContain("e-1");
});
