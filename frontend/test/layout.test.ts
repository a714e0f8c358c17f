/** The structure of the sources: the core needs no React, and imports point down. */

import { readdirSync, readFileSync } from "node:fs";
import { expect, it, vi } from "vitest";
import { Browser } from "./support/browser.js";

vi.mock("react", () => {
  throw new Error("the core imported React");
});

it("connects, sends and receives without React", async () => {
  const browser = new Browser();
  const client = await browser.tab().open();
  expect(await client.sendMessage({ type: "user_message", payload: { content: "hello" } })).toBe(true);
  await expect(import("../src/react/index.js")).rejects.toThrow();
});

const source = new URL("../src/", import.meta.url);
const files = readdirSync(source, { recursive: true, encoding: "utf8" }).filter((name) => name.endsWith(".ts"));
const text = (name: string): string => readFileSync(new URL(name, source), "utf8");

/** Folders and files from the bottom up: each imports only from its own rung and from lower ones. */
const LADDER = ["protocol", "core", "ports.ts", "store", "tabs", "connection", "client", "browser.ts", "react"];
const rung = (name: string): number => LADDER.indexOf(name.split("/")[0] ?? "");

it("has only folders and files of the ladder, and imports only downward", () => {
  for (const name of files) {
    if (name === "index.ts") continue; // the public names
    expect(rung(name), name).toBeGreaterThanOrEqual(0);
    for (const [, path = ""] of text(name).matchAll(/from "(\.[^"]+)\.js"/g)) {
      const imported = new URL(path, new URL(name, source)).href.replace(source.href, "");
      const file = files.find((other) => other === `${imported}.ts`) ?? "";
      expect(file, `${name} imports ${path}`).not.toBe("");
      expect(rung(file), `${name} imports ${file}`).toBeLessThanOrEqual(rung(name));
    }
  }
});

it("has no file of more than 400 lines", () => {
  for (const name of files) expect(text(name).split("\n").length, name).toBeLessThanOrEqual(401);
});

it("imports React only in the binding", () => {
  const core = files.filter((name) => !name.startsWith("react"));
  expect(core.length).toBeGreaterThan(15);
  for (const name of core) {
    expect(text(name), name).not.toMatch(/from "react/);
  }
});
