// The part of a growing text that is shown. Its end may be half of a mark, `**` or `[text](htt`: that is
// held back until more text decides it, so that no mark flickers and what is shown stays as it is.

import type { SyntaxNode, Tree } from "@lezer/common";
import { mathLength } from "./parser.ts";

const MAX_BRACKET = 120; // characters that wait for a closing bracket
const MAX_PIPE = 120; // characters after a first pipe that wait for the second line of a table
const MAX_TAG = 300;

/** The end of the blocks that are shown of a growing text; the last line may wait. */
export function endOfBlocks(text: string, tree: Tree): number {
  const lineStart = text.lastIndexOf("\n") + 1;
  const last = lastBlock(tree);
  const line = text.slice(lineStart);
  if (last?.name === "FencedCode" && last.from < lineStart) {
    const isHalfFence = /^[\s>]*(?:`+|~+)\s*$/.test(line) && isOpenFence(last, lineStart);
    return isHalfFence ? lineStart - 1 : text.length;
  }
  if (last && /^(?:CodeBlock|HTMLBlock|CommentBlock|ProcessingInstructionBlock)$/.test(last.name)) return text.length;
  const table = last && mayGoOn(last, lineStart) ? possibleTable(text, last) : null;
  if (table !== null) return table;
  const rest = line.replace(/^(?:\s|>|[-*+](?=\s)|\d{1,9}[.)](?=\s))*/, "");
  // The backslash may belong to a pipe.
  if (last?.name === "Table" && rest.startsWith("|")) return text.length - (/\\?$/.exec(rest)?.[0].length ?? 0);
  if (!rest) return line.trim() ? lineStart : text.length;
  if (isOnlyMarks(rest) || isFence(rest) || isDefinition(rest)) return lineStart;
  const closing = /^#{1,6}\s.*?(\s+#+\s*)$/.exec(rest);
  return text.length - (closing?.[1]?.length ?? 0);
}

/** A line that may become a heading, an item, a rule, a fence or a table. */
const isOnlyMarks = (line: string) => /^(?:[-*_=#+>~`|:.\s]+|\d{1,9}[.)]?|\[[ xX]?\]?\s*)$/.test(line);
const isFence = (line: string) => /^(?:`{3,}[^`]*|~{3,}.*)$/.test(line);
const isDefinition = (line: string) => /^\[[^\][^][^\][]*\]:/.test(line) || /^\[\^[^\][]*\](?::\s*)?$/.test(line);

/** A paragraph; also one that its last line makes a heading or a table so far. */
function mayGoOn(block: SyntaxNode, lineStart: number): boolean {
  if (block.name === "Table") return (block.getChild("TableDelimiter")?.from ?? 0) >= lineStart;
  return block.name === "Paragraph" || (block.name.startsWith("Setext") && (block.lastChild?.from ?? 0) >= lineStart);
}

function lastBlock(tree: Tree): SyntaxNode | null {
  let node: SyntaxNode | null = tree.topNode.lastChild;
  while (node && /^(?:Blockquote|BulletList|OrderedList|ListItem)$/.test(node.name)) node = node.lastChild;
  return node;
}

function isOpenFence(code: SyntaxNode, lineStart: number): boolean {
  const marks = code.getChildren("CodeMark");
  return marks.length < 2 || (marks[1]?.from ?? 0) >= lineStart;
}

/** Where a paragraph begins that the next line may turn into a table; null if there is none. */
function possibleTable(text: string, paragraph: SyntaxNode): number | null {
  const lines = text.slice(paragraph.from).split("\n");
  const isDelimiter = (line: string) => /^[\s>]*[|:-][\s|:-]*$/.test(line);
  let end = lines.length;
  if (end > 1 && (!lines[end - 1]?.trim() || isDelimiter(lines[end - 1] ?? ""))) end -= 1;
  if (lines.length > end + 1) return null;
  const head = lines[end - 1] ?? "";
  const pipe = head.search(/(?<!\\)\|/);
  if (pipe < 0) return null;
  const from = paragraph.from + lines.slice(0, end - 1).join("\n").length + (end > 1 ? 1 : 0);
  if (/^[\s>]*$/.test(head.slice(0, pipe))) return from;
  return head.length - pipe > MAX_PIPE ? null : from + pipe;
}

/** A paragraph, heading or cell that grows. */
export interface Unfinished {
  /** What is shown of it as Markdown. */
  readonly text: string;
  /** What is shown after it: of a link the text, before its address is complete, or code. */
  readonly after?: { readonly kind: "link" | "code" | "text"; readonly text: string };
}

/** What is shown of a text whose end may be half of a mark. */
export function unfinished(text: string): Unfinished {
  const brackets: number[] = [];
  const cut = (at: number, after?: Unfinished["after"]): Unfinished => {
    const first = brackets.find((from) => text.length - from <= MAX_BRACKET);
    if (first !== undefined && first < at) return { text: text.slice(0, first).trimEnd() };
    return after ? { text: text.slice(0, at), after } : { text: text.slice(0, at).trimEnd() };
  };
  let at = 0;
  while (at < text.length) {
    const sign = text.charAt(at);
    const rest = () => text.slice(at);
    if (sign === "\\") {
      if (at === text.length - 1) return cut(at);
      const math = mathLength(text, at);
      // A formula may have signs of Markdown in it.
      if (math === 2 || (text.startsWith("\\[", at) && !math && /(?:^|\n)\s*$/.test(text.slice(0, at)))) {
        if (!text.startsWith("\\]", at)) return cut(at, { kind: "text", text: rest().replace(/\\$/, "") });
      }
      at += math || 2;
    } else if (sign === "$") {
      const math = mathLength(text, at);
      if (!math && text.startsWith("$$", at)) return cut(at, { kind: "text", text: rest() });
      if (!math && isHalfMath(text.slice(at))) return cut(at, { kind: "text", text: rest() });
      at += math || 1;
    } else if (sign === "`") {
      const size = /^`+/.exec(rest())?.[0].length ?? 1;
      if (at + size === text.length) return cut(at);
      const end = endOfCode(text, at + size, size);
      if (end < 0) return cut(at, { kind: "code", text: text.slice(at + size).replace(/`+$/, "") });
      at = end;
    } else if (sign === "<") {
      const tag = /^<[A-Za-z/!?][^<>]*>/.exec(text.slice(at, at + MAX_TAG));
      if (!tag && text.length - at < MAX_TAG && /^<(?:[A-Za-z][^\s<>]*|br\s*\/?)?$/i.test(rest())) return cut(at);
      at += tag?.[0].length ?? 1;
    } else if (sign === "&") {
      if (text.length - at < 32 && /^&[#\w]*$/.test(rest())) return cut(at);
      at += 1;
    } else if (sign === "[") {
      brackets.push(text.charAt(at - 1) === "!" ? at - 1 : at);
      at += 1;
    } else if (sign === "]" && brackets.length > 0) {
      const from = brackets.pop() ?? 0;
      const end = endOfLink(text, at + 1);
      if (end === "open") {
        const label = text.slice(from, at).replace(/^!?\[/, "");
        const isLink = text.charAt(at + 1) === "(";
        const shown = text.charAt(from) === "!" ? `image: ${label || "no title"}` : label;
        return cut(from, isLink ? { kind: "link", text: shown } : undefined);
      }
      at = end;
    } else {
      at += 1;
    }
  }
  const end = /(?:[*_~]+|!)$/.exec(text);
  return cut(end && !isEscaped(text, end.index) ? end.index : text.length);
}

/** Whether a text looks like the beginning of a formula. */
const isHalfMath = (text: string) => /^\$(?![\s\d$])[^$\n`]{0,80}$/.test(text) && /[\\_^{}=]/.test(text);

const isEscaped = (text: string, at: number) => (/\\*$/.exec(text.slice(0, at))?.[0].length ?? 0) % 2 === 1;

/** The end of inline code that begins at a position; -1 if it does not end. */
function endOfCode(text: string, from: number, size: number): number {
  for (let at = text.indexOf("`", from); at >= 0; at = text.indexOf("`", at)) {
    let end = at;
    while (text.charAt(end) === "`") end += 1;
    if (end - at === size) return end;
    at = end;
  }
  return -1;
}

/** The end of a link's address after its closing bracket; "open" if more text decides it. */
function endOfLink(text: string, at: number): number | "open" {
  const sign = text.charAt(at);
  if (!sign) return "open";
  if (sign === "[") {
    const label = /^\[[^\][]*/.exec(text.slice(at, at + MAX_BRACKET))?.[0] ?? "";
    if (at + label.length === text.length) return "open";
    return text.charAt(at + label.length) === "]" ? at + label.length + 1 : at;
  }
  if (sign !== "(") return at;
  let depth = 0;
  let quote = "";
  let spaces = false;
  for (let end = at + 1; end < text.length; end += 1) {
    const next = text.charAt(end);
    if (next === "\\") end += 1;
    else if (quote) quote = next === quote ? "" : quote;
    else if (/\s/.test(next)) spaces = true;
    else if (spaces && /["']/.test(next)) quote = next;
    else if (next === ")" && depth === 0) return end + 1;
    else if (spaces && depth === 0 && /\s/.test(text.charAt(end - 1)) && next !== "(") {
      if (text.slice(at + 1, end).trim()) return at; // words: no address
    } else if (next === "(") depth += 1;
    else if (next === ")") depth -= 1;
  }
  return "open";
}
