// The blocks of a Markdown text, its links and its entities.

const LINKS = new Set(["http:", "https:", "mailto:"]);
const NAMED: Record<string, string> = {
  amp: "&", lt: "<", gt: ">", quot: '"', apos: "'", nbsp: "\u00a0", copy: "©", hellip: "…",
  mdash: "—", ndash: "–", times: "×", middot: "·", rarr: "→", larr: "←", euro: "€", deg: "°",
};
const MAX_CODE_POINT = 0x10ffff;

/** The address of a link as a browser reads it, or null if it must not be followed. */
export function safeLink(href: string): string | null {
  try {
    const url = new URL(href);
    return LINKS.has(url.protocol) ? url.href : null;
  } catch {
    return null; // relative or malformed
  }
}

/** A text with its HTML entities replaced by characters: `&lt;` becomes `<`. */
export function decodeEntities(text: string): string {
  if (!text.includes("&")) return text;
  return text.replace(/&(#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[a-z]{2,6});/g, (all, name: string) => {
    if (!name.startsWith("#")) return NAMED[name] ?? all;
    const point = Number(name.replace(/^#x/i, "0x").replace("#", ""));
    const isCharacter = point > 0 && point <= MAX_CODE_POINT && !(point >= 0xd800 && point <= 0xdfff);
    return isCharacter ? String.fromCodePoint(point) : "\ufffd";
  });
}

/**
 * Split Markdown at blank lines into blocks that can be parsed one by one, so that a growing text
 * changes only its last block. A list, an indented line and a fence stay in one block.
 */
export function splitBlocks(text: string): string[] {
  const found: string[] = [];
  let lines: string[] = [];
  let fence: string | null = null;
  let blank = false;
  const end = () => {
    if (lines.some((line) => line.trim())) found.push(lines.join("\n"));
    lines = [];
  };
  for (const line of text.split("\n")) {
    const mark = /^ {0,3}(`{3,}|~{3,})(.*)$/.exec(line);
    if (fence !== null) {
      lines.push(line);
      const isEnd = mark?.[1]?.startsWith(fence) && !mark[2]?.trim();
      if (isEnd) {
        fence = null;
        if (!isItem(lines[0] ?? "")) end();
      }
      continue;
    }
    const first = lines[0] ?? "";
    const belongs = /^\s/.test(line) || (isItem(line) && isItem(first));
    if (blank && line.trim() && !belongs) end();
    blank = !line.trim();
    // With a backtick in the info string it is inline code, not a fence.
    if (mark?.[1] && !(mark[1].startsWith("`") && mark[2]?.includes("`"))) {
      if (!isItem(first)) end();
      fence = mark[1];
    }
    lines.push(line);
  }
  end();
  return found;
}

const isItem = (line: string) => /^ {0,3}(?:[-*+]|\d{1,9}[.)])\s/.test(line);
