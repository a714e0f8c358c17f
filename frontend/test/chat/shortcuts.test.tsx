/** The page's shortcuts: which keys execute a command, and which handler does. */

import { afterEach, describe, expect, it } from "vitest";
import type * as Shortcuts from "../../pages/chat/shortcuts.ts";

const { commandOf, execute, namesOf, onCommand, SHORTCUTS } = (await import(
  /* @vite-ignore */ new URL("../../pages/chat/shortcuts.ts", import.meta.url).pathname
)) as typeof Shortcuts;

const press = (key: string, more: KeyboardEventInit = {}): KeyboardEvent =>
  new KeyboardEvent("keydown", { key, code: /^[a-z]$/i.test(key) ? `Key${key.toUpperCase()}` : "", ...more });
const alt = { altKey: true };
const ctrl = { ctrlKey: true };
const meta = { metaKey: true };
const shift = { shiftKey: true };

afterEach(() => document.body.replaceChildren());

describe("the command of a key", () => {
  it.each([
    ["n", alt, "new"],
    ["o", alt, "sidebar"],
    ["a", alt, "copy-last"],
    ["k", ctrl, "search"],
    ["/", ctrl, "help"],
    ["/", { ...ctrl, ...shift }, "help"],
    ["n", ctrl, null],
    ["k", meta, null],
    ["k", { ...ctrl, ...shift }, null],
    ["n", { ...alt, ...shift }, null],
    ["n", { ...alt, ...ctrl }, null],
    ["k", { ...ctrl, repeat: true }, null],
    ["k", { ...ctrl, isComposing: true }, null],
    ["n", { ...alt, modifierAltGraph: true }, null],
    ["n", {}, null],
    ["x", alt, null],
  ] as const)("%s with %o is %s", (key, keys, command) => {
    expect(commandOf(press(key, keys), false)).toBe(command);
  });

  it.each([
    ["k", meta, "search"],
    ["/", meta, "help"],
    ["˜", { ...meta, ...alt, code: "KeyN" }, "new"],
    ["å", { ...meta, ...alt, code: "KeyA" }, "copy-last"],
    ["˜", { ...alt, code: "KeyN" }, null],
    ["k", ctrl, null],
    ["k", { ...meta, ...ctrl }, null],
  ] as const)("%s with %o is %s on a Mac", (key, keys, command) => {
    expect(commandOf(press(key, keys), true)).toBe(command);
  });

  it("is that of the key's place where the layout has no Latin letters", () => {
    expect(commandOf(press("л", { ...ctrl, code: "KeyK" }), false)).toBe("search");
    expect(commandOf(press("k", { ...ctrl, code: "KeyE" }), false)).toBe("search");
    expect(commandOf(press("e", { ...ctrl, code: "KeyK" }), false)).toBeNull();
  });

  it("is the help for a question mark, unless it is typed", () => {
    const commands = ["button", "input", "textarea", "select"].map((name) => {
      const target = document.body.appendChild(document.createElement(name));
      const event = press("?", { ...shift, bubbles: true });
      target.dispatchEvent(event);
      return commandOf(event, false);
    });
    expect(commands).toEqual(["help", null, null, null]);
  });

  it("edits the last message in the empty message box only", () => {
    document.body.innerHTML = "<textarea></textarea><div class=composer><textarea></textarea></div>";
    const [other, box] = document.querySelectorAll("textarea");
    const commandAt = (target: HTMLTextAreaElement | undefined, more: KeyboardEventInit = {}): string | null => {
      const event = press("ArrowUp", { bubbles: true, ...more });
      target?.dispatchEvent(event);
      return commandOf(event, false);
    };
    expect([commandAt(box), commandAt(other), commandAt(box, shift)]).toEqual(["edit-last", null, null]);
    if (box !== undefined) box.value = "text";
    expect(commandAt(box)).toBeNull();
  });
});

it("is executed by the latest handler", () => {
  const calls: string[] = [];
  expect(execute("new")).toBe(false);
  const first = onCommand("new", () => calls.push("first"));
  const second = onCommand("new", () => calls.push("second"));
  expect(execute("new")).toBe(true);
  second();
  expect(execute("new")).toBe(true);
  first();
  expect(execute("new")).toBe(false);
  expect(calls).toEqual(["second", "first"]);
});

it("is named as on the user's keyboard", () => {
  const names = (command: string, mac: boolean): string =>
    namesOf(SHORTCUTS.find((shortcut) => shortcut.command === command) ?? { keys: [] }, mac).join("+");
  expect([names("new", false), names("new", true)]).toEqual(["Alt+N", "⌥+⌘+N"]);
  expect([names("search", false), names("search", true)]).toEqual(["Ctrl+K", "⌘+K"]);
});
