/** The work for Markdown: bounded for a delta, and for hostile texts. It is counted, not timed. */

import type { PartialParse } from "@lezer/common";
import { MarkdownParser } from "@lezer/markdown";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { modules, render } from "../support/page.js";
import { samples } from "../support/markdown.js";

type CreateParse = (...parameters: Parameters<MarkdownParser["createParse"]>) => PartialParse;

const { BlockReader, OuterBlocks, parseInline, splitText, unfinished, endOfBlocks } = await modules();

let characters = 0; // that the parsers read
const inputs: number[] = []; // the lengths of their texts

beforeEach(() => {
  characters = 0;
  const create: CreateParse = Reflect.get(MarkdownParser.prototype, "createParse");
  vi.spyOn(MarkdownParser.prototype, "createParse").mockImplementation(function (this: MarkdownParser, input, ...rest) {
    inputs.push(input.length);
    const chunk = input.chunk.bind(input);
    vi.spyOn(input, "chunk").mockImplementation((from) => {
      const text = chunk(from);
      characters += (text.indexOf("\n") + 1 || text.length + 1);
      return text;
    });
    return create.call(this, input, ...rest);
  });
});
afterEach(() => vi.restoreAllMocks());

/** The most characters that are read for one delta, at the end of a text. */
async function most(text: string, last: number): Promise<number> {
  const view = await render(text.slice(0, -last), true);
  let largest = 0;
  for (let end = text.length - last + 9; end < text.length; end += 9) {
    characters = 0;
    await view.show(text.slice(0, end), true);
    largest = Math.max(largest, characters);
  }
  await view.end();
  expect(largest).toBeGreaterThan(10);
  return largest;
}

const lines = (count: number, line: (n: number) => string): string => Array.from({ length: count }, (_, n) => line(n)).join("\n");
const growing: Readonly<Record<string, (count: number) => string>> = {
  paragraphs: (count) => lines(count, (n) => `Paragraph ${n} with **bold** text.\n`),
  "items of a list": (count) => lines(count, (n) => `- item ${n} with **bold** text`),
  "items with empty lines": (count) => lines(count, (n) => `${n}. item\n\n   with a paragraph\n`),
  "paragraphs of a quote": (count) => lines(count, (n) => `> paragraph ${n} of it\n>`),
  "blocks of a model": (count) => lines(count / 10, () => `${samples["table"]}\n\n${samples["lists"]}\n\n${samples["fence"]}\n`),
};

describe("the outer blocks of a growing text", () => {
  const text = lines(30, (n) => `Paragraph ${n} with **bold** text.\n`);

  it("keep their elements, and refer to their own text and tree alone", () => {
    const [reader, outer] = [new BlockReader(), new OuterBlocks()];
    const read = (end: number) => outer.read(text.slice(0, end), reader.read(text.slice(0, end)), true);
    const before = read(text.length - 40);
    for (let end = text.length - 39; end < text.length; end += 1) read(end);
    const after = read(text.length);
    expect(after).toHaveLength(30);
    expect(after.slice(0, before.length - 1)).toEqual(before.slice(0, -1));
    after.slice(0, before.length - 1).forEach((element, index) => expect(element).toBe(before[index]));
    for (const { props } of after.slice(0, -1)) {
      expect(props.text).toMatch(/^Paragraph \d+ with \*\*bold\*\* text\.$/);
      expect(props.node.from).toBe(0);
      expect(props.node.to).toBe(props.text.length);
      expect(props.node.parent).toBeNull();
    }
  });

  it("get another element where the text before them changed", () => {
    const [reader, outer] = [new BlockReader(), new OuterBlocks()];
    const show = (whole: string) => outer.read(whole, reader.read(whole), false);
    const [first, second] = show("one\n\ntwo");
    const after = show("# one\n\ntwo");
    expect(after[0]).not.toBe(first);
    expect(after[1]).toBe(second);
  });
});

describe("the characters that are read for a delta", () => {
  it.each(Object.entries(growing))("do not depend on the %s before the last", async (_, textOf) => {
    const [short, long] = [await most(textOf(20), 100), await most(textOf(120), 100)];
    expect(long).toBeLessThan(1.5 * short);
  });

  it.each([
    ["table", `| a | b |\n|---|---|\n${"| cell **one** | cell `two` |\n".repeat(300)}`],
    ["paragraph", "word and **bold word** so. ".repeat(300)],
    ["paragraph with lines", "word and **bold word** so\n".repeat(300)],
  ])("are those of its lines and of its last part: a growing %s", async (_, text) => {
    expect(await most(text, 100)).toBeLessThan(2.2 * text.length + 3_000);
  });
});

const hostile: Readonly<Record<string, (n: number) => string>> = {
  brackets: (n) => "[".repeat(n),
  "closed brackets": (n) => `${"[".repeat(n)}${"]".repeat(n)}`,
  links: (n) => "[a](".repeat(n / 4),
  images: (n) => "![[]()".repeat(n / 6),
  stars: (n) => "*".repeat(n),
  openers: (n) => "*a ".repeat(n / 3),
  closers: (n) => "a* ".repeat(n / 3),
  "both marks": (n) => "*a_ ".repeat(n / 4),
  "nested emphasis": (n) => `${"**".repeat(n / 4)}a${"**".repeat(n / 4)}`,
  "nested emphasis in turns": (n) => `${"*_".repeat(n / 4)}a${"_*".repeat(n / 4)}`,
  pipes: (n) => "|".repeat(n),
  "many columns": (n) => `${"|a".repeat(n / 4)}|\n${"|-".repeat(n / 4)}|\n${"|b".repeat(n / 4)}|`,
  "many empty cells": (n) => `${"|a".repeat(n / 50)}|\n${"|-".repeat(n / 50)}|\n${"|b\n".repeat(n / 5)}`,
  backticks: (n) => Array.from({ length: Math.sqrt(n) }, (_, k) => "`".repeat(k + 1)).join("a"),
  quotes: (n) => ">".repeat(n),
  "nested quotes": (n) => Array.from({ length: Math.sqrt(n) }, (_, k) => `${"> ".repeat(k + 1)}a`).join("\n"),
  "nested items": (n) => "- ".repeat(n / 2),
  "nested lists": (n) => Array.from({ length: Math.sqrt(n) }, (_, k) => `${"  ".repeat(k)}- a`).join("\n"),
  ampersands: (n) => "&".repeat(n),
  entities: (n) => "&amp;".repeat(n / 5),
  tags: (n) => "<a ".repeat(n / 3),
  comments: (n) => "<!--".repeat(n / 4),
  instructions: (n) => "a <?".repeat(n / 4),
  addresses: (n) => "http://a".repeat(n / 8),
  mails: (n) => "a@".repeat(n / 2),
  definitions: (n) => "[a]: x\n".repeat(n / 7),
  references: (n) => "[a][".repeat(n / 4),
  formulas: (n) => "$a_".repeat(n / 3),
  "open formulas": (n) => "\\(a $$b ".repeat(n / 8),
  backslashes: (n) => "\\".repeat(n),
  tildes: (n) => "~~a ".repeat(n / 4),
  "one word": (n) => "a".repeat(n),
};

describe("a hostile text", () => {
  it.each(Object.entries(hostile))("is parsed in parts: %s", (_, textOf) => {
    const text = textOf(20_000);
    const tree = new BlockReader().read(text);
    endOfBlocks(text, tree);
    expect(characters).toBeLessThan(2 * text.length + 2);
    inputs.length = 0;
    for (const part of splitText(text)) {
      parseInline(part);
      unfinished(part);
    }
    expect(Math.max(...inputs)).toBeLessThanOrEqual(3_000);
  });

  it.each(Object.entries(hostile))("is shown: %s", async (_, textOf) => {
    const text = `${textOf(1_500)}\n\nend`;
    const view = await render(text, true);
    await view.show(text, false);
    expect(view.visible()).toMatch(/end$/);
    expect(view.element.querySelectorAll("*").length).toBeLessThan(text.length + 100);
    await view.end();
  });
});
