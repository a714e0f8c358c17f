/** The menu of actions that the pages share: its keys, and where the focus goes. */

import { act, type ComponentType } from "react";
import { createRoot, type Root } from "react-dom/client";
import { afterEach, beforeEach, expect, it, vi } from "vitest";
import { stubLayers } from "../support/layers.js";

stubLayers();

let page: HTMLElement;
let root: Root;
const picks: string[] = [];

const button = (): HTMLElement => page.querySelector<HTMLElement>("[aria-haspopup=menu]") ?? page;
const menu = (): HTMLElement => page.querySelector<HTMLElement>("[role=menu]") ?? page;
const focused = (): string | undefined => document.activeElement?.textContent || document.activeElement?.ariaLabel || undefined;
const press = (key: string): Promise<void> =>
  act(async () => void document.activeElement?.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true })));

beforeEach(async () => {
  (globalThis as { IS_REACT_ACT_ENVIRONMENT?: boolean }).IS_REACT_ACT_ENVIRONMENT = true;
  const source = new URL("../../pages/shared/Menu.tsx", import.meta.url).pathname;
  const { Menu } = (await import(/* @vite-ignore */ source)) as { Menu: ComponentType<Record<string, unknown>> };
  page = document.body.appendChild(document.createElement("div"));
  root = createRoot(page);
  picks.length = 0;
  const items = ["Rename", "Share", "Delete"].map((text) => ({ text, name: `${text}: x`, icon: null, onPick: () => picks.push(text) }));
  await act(async () => root.render(<Menu label="Actions: x" items={items} />));
  await act(async () => button().click());
});

afterEach(async () => {
  await act(async () => root.unmount());
  page.remove();
  vi.unstubAllGlobals();
});

it("opens with the focus at its first action, and moves it with the arrow keys", async () => {
  expect(menu().hasAttribute("data-open")).toBe(true);
  const seen = [focused()];
  for (const key of ["ArrowUp", "ArrowDown", "ArrowDown", "End", "Home", "x"]) {
    await press(key);
    seen.push(focused());
  }
  expect(seen).toEqual(["Rename", "Delete", "Rename", "Share", "Delete", "Rename", "Rename"]);
});

it.each(["Escape", "Tab"])("closes at %s, and returns the focus to its button", async (key) => {
  await press(key);
  expect(menu().hasAttribute("data-open")).toBe(false);
  expect(document.activeElement).toBe(button());
  expect(picks).toEqual([]);
});

it("closes when an action is picked", async () => {
  await press("End");
  await act(async () => (document.activeElement as HTMLElement).click());
  expect(picks).toEqual(["Delete"]);
  expect(menu().hasAttribute("data-open")).toBe(false);
  expect(document.activeElement).toBe(button());
});

it("opens below its button, and above it at the window's end", async () => {
  const at = async (top: number): Promise<readonly string[]> => {
    await press("Escape");
    vi.spyOn(button(), "getBoundingClientRect").mockReturnValue(new DOMRect(100, top, 30, 30));
    await act(async () => button().click());
    return [menu().style.top, menu().style.bottom];
  };
  expect(await at(100)).toEqual(["134px", "auto"]);
  expect(await at(700)).toEqual(["auto", `${innerHeight - 700 + 4}px`]);
});
