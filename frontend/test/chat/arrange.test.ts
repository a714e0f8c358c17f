/** Where the page shows the steps of an answer in its text. */

import { describe, expect, it } from "vitest";
import { arrange } from "../../pages/chat/messages/arrange.js";
import type { RunPart } from "../../src/index.js";

/** Shows a text with `@` where a tool was called, and `|` around the pieces. */
function shown(marked: string): string {
  const pieces = marked.split("@");
  const parts: RunPart[] = [];
  let at = 0;
  pieces.forEach((piece, index) => {
    if (piece !== "") parts.push({ type: "text", from: at, to: at + piece.length });
    at += piece.length;
    if (index < pieces.length - 1) parts.push({ type: "tool", tool_call_id: `${index}` });
  });
  const text = pieces.join("");
  const { blocks, tail } = arrange(text, parts);
  const found = blocks.map((block) => (block.type === "text" ? block.text : "@".repeat(block.steps.length)));
  return [...found, text.slice(tail)].filter((piece) => piece !== "").join("|");
}

describe("a tool is shown", () => {
  it.each([
    ["in front of the text", "@Hello", "@|Hello"],
    ["between two paragraphs", "One.\n\n@Two.", "One.\n\n|@|Two."],
    ["within a sentence", "Let me look @at it.", "Let me look |@|at it."],
    ["at the end, while nothing follows", "Let me look@", "Let me look|@"],
    ["beside its neighbour", "One.\n\n@@Two.", "One.\n\n|@@|Two."],
    ["behind the word it was called in", "Hel@lo you.\n\nMore", "Hello you.\n|@|\nMore"],
    ["behind a code block", "```js\na@b\n```\nMore", "```js\nab\n```\n|@|More"],
    ["behind a code block that goes on", "```js\na@b\n", "```js\nab\n|@"],
    ["behind the code block that begins on its line", "```p@y\na\n```\nMore", "```py\na\n```\n|@|More"],
    ["in front of a code block", "Look:\n\n@```js\na\n```", "Look:\n\n|@|```js\na\n```"],
    ["behind a list", "- a\n- b@c\n- d\n\nMore", "- a\n- bc\n- d\n|@|\nMore"],
    ["behind a list with blank lines", "- a@b\n\n- c\n\nMore", "- ab\n\n- c\n|@|\nMore"],
    ["behind a table", "| a |\n|---|\n| 1@2 |\n\nMore", "| a |\n|---|\n| 12 |\n|@|\nMore"],
    ["behind a heading", "# Ti@tle\nMore", "# Title\n|@|More"],
    ["behind an emphasis", "It is **ve@ry** good.\n\nMore", "It is **very** good.\n|@|\nMore"],
    ["behind a code span", "Use `a @b` now.\n\nMore", "Use `a b` now.\n|@|\nMore"],
    ["behind the same list as the tool before", "- a@b\n- c@d\n\nMore", "- ab\n- cd\n|@@|\nMore"],
  ])("%s", (_, marked, expected) => {
    expect(shown(marked)).toBe(expected);
  });

  it("at a place that more text does not change, once that is settled", () => {
    const parts: RunPart[] = [
      { type: "text", from: 0, to: 7 },
      { type: "tool", tool_call_id: "c" },
      { type: "text", from: 7, to: null },
    ];
    const text = "```\nab\nc\n```\nMore, and **more**.\n\n- a\n";
    let settled: unknown = null;
    for (let length = 7; length <= text.length; length += 1) {
      const { isSettled, ...arranged } = arrange(text.slice(0, length), parts);
      if (settled !== null) expect(arranged).toEqual(settled);
      else if (isSettled) settled = arranged;
    }
    expect(settled).toMatchObject({ tail: 13 });
  });
});
