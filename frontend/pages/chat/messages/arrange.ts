// Where the page shows the steps of an answer: at their place in the text, unless that would tear a
// code block, a list, a table or an emphasis apart. Then they are shown behind it.

import type { RunPart } from "../../../src/index.ts";

/** A step that is shown within the answer; its files are shown behind it. */
export type StepPart = Exclude<RunPart, { readonly type: "text" | "file" }>;

export type Block =
  | { readonly type: "text"; readonly from: number; readonly text: string }
  | { readonly type: "steps"; readonly steps: readonly StepPart[] };

export interface Arrangement {
  readonly blocks: readonly Block[];
  /** The text from here on is behind all steps. */
  readonly tail: number;
  /** Whether more text cannot move a step any more. */
  readonly isSettled: boolean;
}

interface Place {
  readonly at: number;
  readonly isSettled: boolean;
}

/** The blocks of an answer, up to the text behind its last step. */
export function arrange(text: string, parts: readonly RunPart[]): Arrangement {
  const blocks: Block[] = [];
  let done = 0;
  let place: Place = { at: 0, isSettled: true };
  let at = 0;
  for (const part of parts) {
    if (part.type === "text") {
      at = part.to ?? part.from;
      continue;
    }
    if (part.type === "file") continue;
    if (at > place.at) place = placeIn(text, done, at);
    const piece = text.slice(done, place.at);
    const isShown = piece.trim() !== "";
    if (isShown) blocks.push({ type: "text", from: done, text: piece });
    done = place.at;
    const before = blocks.at(-1);
    if (before?.type === "steps") blocks.splice(-1, 1, { type: "steps", steps: [...before.steps, part] });
    else blocks.push({ type: "steps", steps: [part] });
  }
  return { blocks, tail: done, isSettled: place.isSettled };
}

const ITEM = /^\s*(?:[-*+]|\d{1,9}[.)])\s/;
const BLOCK = /^\s*(?:[-*+]\s|\d{1,9}[.)]\s|>|\|)/; // of a list, a quote or a table
const FENCE = /^\s*(`{3,}|~{3,})(.*)$/;
const WORD = /[\p{L}\p{N}]/u;

/** The place for a step at `at` in the text whose current piece begins at `start`. */
function placeIn(text: string, start: number, at: number): Place {
  let fence: string | null = null;
  let paragraph = start; // the begin of the lines since the last blank one
  let isBlock = false;
  let line = start;
  for (let end = text.indexOf("\n", line); end >= 0 && end < at; end = text.indexOf("\n", line)) {
    const read = text.slice(line, end);
    const isBlank = read.trim() === "";
    fence = fenceAfter(read, fence);
    if (fence === null && isBlank) [paragraph, isBlock] = [end + 1, false];
    else isBlock ||= BLOCK.test(read);
    line = end + 1;
  }
  const begun = text.slice(line, at);
  const after = fenceAfter(begun, fence);
  if (fence !== null || after !== null) return behindFence(text, line, fence);
  if (isBlock || BLOCK.test(begun)) return behindBlock(text, at, true);
  // At the begin of a line a step is between two lines.
  if (begun.startsWith("#")) return behindLine(text, at);
  if (isOpen(text.slice(paragraph, at))) return behindBlock(text, at, false);
  const next = text.slice(at, at + 1);
  if (WORD.test(next) && WORD.test(text.slice(at - 1, at))) return behindBlock(text, at, false);
  return { at, isSettled: next !== "" };
}

/** The fence that is open after a line; null: none. */
function fenceAfter(line: string, fence: string | null): string | null {
  const [, mark, rest = ""] = FENCE.exec(line) ?? [];
  if (mark === undefined) return fence;
  if (fence !== null) return mark.startsWith(fence) && rest.trim() === "" ? null : fence;
  // With a backtick in the info string it is inline code, not a fence.
  return mark.startsWith("`") && rest.includes("`") ? null : mark;
}

/** Behind the code block that is open at a line, or begins there. */
function behindFence(text: string, from: number, fence: string | null): Place {
  let open = fence;
  for (let line = from; line < text.length; ) {
    const end = text.indexOf("\n", line);
    open = fenceAfter(text.slice(line, end < 0 ? undefined : end), open);
    // A line that has not ended may go on.
    if (end < 0) break;
    if (open === null) return { at: end + 1, isSettled: true };
    line = end + 1;
  }
  return { at: text.length, isSettled: false };
}

/** Behind the list, quote, table or paragraph: at the next blank line outside of a code block. */
function behindBlock(text: string, at: number, isList: boolean): Place {
  let fence: string | null = null;
  for (let line = text.lastIndexOf("\n", at - 1) + 1; line < text.length; ) {
    const end = text.indexOf("\n", line);
    if (end < 0) break;
    const read = text.slice(line, end);
    if (line >= at && fence === null && read.trim() === "") {
      // A blank line inside a list: it goes on with an item or an indented line.
      const next = text.slice(end + 1).split("\n", 1)[0] ?? "";
      if (next === "") return { at: line, isSettled: !isList || text.length > end + 1 };
      if (!isList || !(/^\s/.test(next) || ITEM.test(next))) return { at: line, isSettled: true };
    }
    fence = fenceAfter(read, fence);
    line = end + 1;
  }
  return { at: text.length, isSettled: false };
}

function behindLine(text: string, at: number): Place {
  const end = text.indexOf("\n", at);
  return end < 0 ? { at: text.length, isSettled: false } : { at: end + 1, isSettled: true };
}

/** Whether a code span, an emphasis or a link begins in a paragraph, and does not end there. */
function isOpen(paragraph: string): boolean {
  const plain = paragraph.replace(/\\[\s\S]/g, "").replace(/(`+)[^`]*\1/g, "");
  if (plain.includes("`")) return true;
  const isOdd = (mark: RegExp) => (plain.match(mark)?.length ?? 0) % 2 === 1;
  if (isOdd(/\*\*/g) || isOdd(/~~/g) || isOdd(/(?<!\*)\*(?![*\s])|(?<![*\s])\*(?!\*)/g)) return true;
  return /\[[^\]]*$|\]\([^)]*$/.test(plain);
}
