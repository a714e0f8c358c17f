/** Markdown that is streamed character by character: no frame shows a mark that the whole text does not show. */

import { expect, it } from "vitest";
import { chooser, generate, samples } from "../support/markdown.js";
import { render } from "../support/page.js";

/** What a reader sees of it while it grows, without white space. */
async function frames(text: string): Promise<string[]> {
  const view = await render("", true);
  const seen: string[] = [];
  for (let end = 1; end <= text.length; end += 1) {
    await view.show(text.slice(0, end), true);
    seen.push(view.visible());
  }
  await view.show(text, false);
  seen.push(view.visible());
  const whole = await render(text);
  expect(view.element.innerHTML).toBe(whole.element.innerHTML);
  await whole.end();
  await view.end();
  return seen;
}

function expectGrowth(text: string, seen: readonly string[]): void {
  const final = seen.at(-1) ?? "";
  for (const [index, frame] of seen.entries()) {
    const isPrefix = final.startsWith(frame) && frame.startsWith(seen[index - 1] ?? "");
    if (!isPrefix) expect({ text: text.slice(0, index + 1), frame }).toEqual({ text: "", frame: `a part of ${final}` });
  }
}

it.each(Object.entries(samples))("only adds to what is shown: %s", async (_, text) => {
  expectGrowth(text, await frames(text));
}, 30_000);

it("only adds to what is shown of generated texts", async () => {
  for (let seed = 1; seed <= 6; seed += 1) {
    const text = generate(chooser(seed));
    expectGrowth(text, await frames(text));
  }
}, 30_000);
