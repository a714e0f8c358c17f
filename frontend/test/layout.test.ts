/** The core runs where there is no React at all. */

import { readdirSync, readFileSync } from "node:fs";
import { expect, it, vi } from "vitest";
import { Browser } from "./support/browser.js";

vi.mock("react", () => {
  throw new Error("the core asked for React");
});

it("connects, sends and receives without React", async () => {
  const browser = new Browser();
  const client = await browser.tab().open();
  expect(await client.sendMessage({ type: "user_message", payload: { content: "hello" } })).toBe(true);
  await expect(import("../src/react/index.js")).rejects.toThrow();
});

it("names React in no file but the binding's", () => {
  const source = new URL("../src/", import.meta.url);
  const files = readdirSync(source, { recursive: true, encoding: "utf8" });
  const core = files.filter((name) => name.endsWith(".ts") && !name.startsWith("react"));
  expect(core.length).toBeGreaterThan(15);
  for (const name of core) {
    expect(readFileSync(new URL(name, source), "utf8"), name).not.toMatch(/from "react/);
  }
});
