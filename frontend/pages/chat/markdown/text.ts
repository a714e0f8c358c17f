// The text of a Markdown document: its links, entities, direction and parts.

import type { SyntaxNode } from "@lezer/common";
import { childrenOf } from "./parser.ts";

const LINKS = new Set(["http:", "https:", "mailto:"]);
const NAMED: Record<string, string> = {
  amp: "&", lt: "<", gt: ">", quot: '"', apos: "'", nbsp: "\u00a0", copy: "©", hellip: "…",
  mdash: "—", ndash: "–", times: "×", middot: "·", rarr: "→", larr: "←", euro: "€", deg: "°",
};
const MAX_CODE_POINT = 0x10ffff;
const MAX_PART = 3_000; // characters of a paragraph that are parsed together: the time can grow with their square

/** The address of a link as a browser reads it, or null if it must not be followed. */
export function safeLink(href: string): string | null {
  try {
    const url = new URL(href);
    return LINKS.has(url.protocol) ? url.href : null;
  } catch {
    return null; // relative or malformed
  }
}

/** The character of an HTML entity: `&lt;` becomes `<`. */
export function decodeEntity(entity: string): string {
  const name = entity.slice(1, -1);
  if (!name.startsWith("#")) return NAMED[name] ?? entity;
  const point = Number(name.replace(/^#x/i, "0x").replace("#", ""));
  const isCharacter = point > 0 && point <= MAX_CODE_POINT && !(point >= 0xd800 && point <= 0xdfff);
  return isCharacter ? String.fromCodePoint(point) : "\ufffd";
}

/** The direction of a text, by its first letter; undefined without a letter. */
export function directionOf(text: string): "ltr" | "rtl" | undefined {
  const letter = /\p{L}/u.exec(text)?.[0];
  if (letter === undefined) return undefined;
  return /[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc\u{10800}-\u{10fff}\u{1e800}-\u{1efff}]/u.test(letter) ? "rtl" : "ltr";
}

/** The text of a range in a node, without the marks of the quotes around it. */
export function textWithin(text: string, node: SyntaxNode, from = node.from, to = node.to): string {
  let found = "";
  let end = from;
  for (const child of childrenOf(node)) {
    if (child.name !== "QuoteMark" || child.from < end || child.to > to) continue;
    found += text.slice(end, child.from);
    end = child.to;
  }
  return found + text.slice(end, to);
}

/**
 * A long text in parts that are parsed one by one. The parts of a growing text stay the same, except
 * for the last. Markup that crosses the border of two parts is shown as text.
 */
export function splitText(text: string): string[] {
  const parts: string[] = [];
  let rest = text;
  while (rest.length > MAX_PART) {
    const part = rest.slice(0, MAX_PART);
    const border = Math.max(part.lastIndexOf("\n"), part.lastIndexOf(". ")) + 1 || part.lastIndexOf(" ") + 1;
    // Not between the halves of a character.
    const length = border || (/[\ud800-\udbff]$/.test(part) ? MAX_PART - 1 : MAX_PART);
    parts.push(rest.slice(0, length));
    rest = rest.slice(length);
  }
  parts.push(rest);
  return parts;
}

/** The cells of a table's row, and whether its last one is still open. */
export function cellsOf(text: string, row: SyntaxNode): { cells: string[]; isOpen: boolean } {
  const cells: string[] = [];
  let cell: string | null = null;
  let isFirst = true;
  for (const child of childrenOf(row)) {
    if (child.name === "TableCell") {
      cell = text.slice(child.from, child.to).replaceAll("\\|", "|");
    } else if (child.name === "TableDelimiter") {
      if (!isFirst || cell !== null) cells.push(cell ?? "");
      cell = null;
    }
    isFirst = false;
  }
  if (cell !== null) cells.push(cell);
  return { cells, isOpen: cell !== null };
}

/** The definitions in a paragraph, `[label]: address`; null if it is none. */
export function definitionsOf(text: string): ReadonlyMap<string, string> | null {
  if (!/^\[[^\]^]/.test(text)) return null;
  const found = new Map<string, string>();
  for (const line of text.split("\n")) {
    const match = /^\s*\[([^\][]{1,200})\]:\s*<?(\S{1,2000}?)>?(?:\s+["'(].{0,500}["')])?\s*$/.exec(line);
    if (!match?.[1] || !match[2]) return null;
    found.set(labelOf(match[1]), match[2]);
  }
  return found;
}

/** A label as it is compared. */
export const labelOf = (label: string): string => label.trim().replace(/\s+/g, " ").toLowerCase();
