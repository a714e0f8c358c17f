// The two Markdown parsers. The block parser finds paragraphs, lists, tables …, without their inline
// markup, and reuses the tree of the text before it grew. The inline parser reads one paragraph,
// heading or cell. So the work for a delta is bounded by the block that grows.

import { type SyntaxNode, type Tree, TreeFragment } from "@lezer/common";
import {
  type BlockContext,
  InlineContext,
  type Line,
  type MarkdownConfig,
  Strikethrough,
  Autolink,
  Table,
  TaskList,
  parser,
} from "@lezer/markdown";

const MAX_DEPTH = 48; // of nested blocks, a list counts twice: deeper ones are shown as text
const MAX_MATH = 1_000; // characters of a formula in $…$

const BLOCKS = [
  "LinkReference", "IndentedCode", "FencedCode", "Blockquote", "HorizontalRule", "BulletList", "OrderedList",
  "ATXHeading", "HTMLBlock", "SetextHeading",
];
const INLINES = ["Escape", "Entity", "InlineCode", "HTMLTag", "Emphasis", "HardBreak", "Link", "Image", "LinkEnd"];

/** Ends the nesting: without it 10 000 quote marks in a line are 10 000 nested quotes. */
const depthLimit: MarkdownConfig = {
  parseBlock: [
    {
      name: "DepthLimit",
      before: "IndentedCode",
      parse(cx: BlockContext, line: Line) {
        if (cx.depth < MAX_DEPTH) return false;
        const from = cx.lineStart + line.pos;
        const to = cx.lineStart + line.text.length;
        cx.nextLine();
        cx.addElement(cx.elt("Paragraph", from, to));
        return true;
      },
    },
  ],
};

/** The whole text is one paragraph. */
const oneParagraph: MarkdownConfig = {
  parseBlock: [
    {
      name: "Whole",
      before: "IndentedCode",
      parse(cx: BlockContext, line: Line) {
        const from = cx.lineStart;
        const lines = [line.text];
        while (cx.nextLine()) lines.push(line.text);
        const text = lines.join("\n");
        cx.addElement(cx.elt("Paragraph", from, from + text.length, cx.parser.parseInline(text, from)));
        return true;
      },
    },
  ],
};

/** Whether a run of `*` or `_` may begin emphasis, and end it. */
export function flanking(mark: string, size: number, before: string, after: string): { opens: boolean; closes: boolean } {
  const isWord = /[a-z0-9]/i;
  // 2*3*4 is no emphasis, although CommonMark says so.
  if (mark === "*" && size === 1 && isWord.test(before) && isWord.test(after)) return { opens: false, closes: false };
  const [spaceBefore, spaceAfter] = [/^\s?$/.test(before), /^\s?$/.test(after)];
  const [signBefore, signAfter] = [/[\p{P}\p{S}]/u.test(before), /[\p{P}\p{S}]/u.test(after)];
  // Chinese, Japanese and Korean have no spaces between a sentence's sign and the next word.
  const [cjkBefore, cjkAfter] = [CJK.test(before), CJK.test(after)];
  const left = !spaceAfter && (!signAfter || spaceBefore || signBefore || cjkBefore);
  const right = !spaceBefore && (!signBefore || spaceAfter || signAfter || cjkAfter);
  if (mark !== "_") return { opens: left, closes: right };
  return { opens: left && (!right || signBefore), closes: right && (!left || signAfter) };
}
const CJK = /[\p{Script=Han}\p{Script=Hiragana}\p{Script=Katakana}\p{Script=Hangul}]/u;

/** The length of the formula that begins at a position: 0 without one. It is shown as it is. */
export function mathLength(text: string, at: number): number {
  const pair = text.slice(at, at + 2);
  const until = (close: string) => {
    const end = text.indexOf(close, at + 2);
    return end < 0 ? 0 : end + close.length - at;
  };
  if (pair === "\\(") return until("\\)") || 2;
  if (pair === "\\[" && isLineStart(text, at)) return until("\\]") || (/^\s?$/.test(text.charAt(at + 2)) ? 2 : 0);
  if (pair === "\\]" && isLineStart(text, at)) return 2;
  if (pair === "$$") return until("$$");
  if (!pair.startsWith("$") || /[\w$\\]/.test(text.charAt(at - 1))) return 0;
  const found = /^\$(?![\s$])((?:[^$`\n\\]|\\.)+)(?<!\s)\$(?!\d)/.exec(text.slice(at, at + MAX_MATH));
  // Without a sign of a formula these are two prices.
  return found && /[\\_^{}]/.test(found[1] ?? "") ? found[0].length : 0;
}
const isLineStart = (text: string, at: number) => /(?:^|\n)[ \t]*$/.test(text.slice(Math.max(0, at - 20), at));

const inlineRules: MarkdownConfig = {
  defineNodes: ["Math", "FootnoteReference"],
  parseInline: [
    {
      name: "Math",
      before: "Escape",
      parse(cx, next, at) {
        if (next !== 92 /* \ */ && next !== 36 /* $ */) return -1;
        const length = mathLength(cx.text, at - cx.offset);
        return length ? cx.addElement(cx.elt("Math", at, at + length)) : -1;
      },
    },
    {
      name: "FootnoteReference",
      before: "Link",
      parse(cx, next, at) {
        if (next !== 91 /* [ */ || cx.char(at + 1) !== 94 /* ^ */) return -1;
        const found = /^\[\^[^\s\][^]{1,32}\]/.exec(cx.slice(at, at + 36));
        return found ? cx.addElement(cx.elt("FootnoteReference", at, at + found[0].length)) : -1;
      },
    },
    {
      name: "Emphasis", // in place of the parser's own
      parse(cx, next, at) {
        if (next !== 42 /* * */ && next !== 95 /* _ */) return -1;
        let end = at + 1;
        while (cx.char(end) === next) end += 1;
        const mark = next === 42 ? "*" : "_";
        const { opens, closes } = flanking(mark, end - at, cx.slice(at - 1, at), cx.slice(end, end + 1));
        const type = next === 42 ? InlineContext.emphasisAsterisk : InlineContext.emphasisUnderscore;
        return cx.addDelimiter(type, at, end, opens, closes);
      },
    },
  ],
};

const blockParser = parser.configure([Table, TaskList, { remove: [...INLINES, "LinkReference"] }, depthLimit]);
const inlineParser = parser.configure([Strikethrough, Autolink, { remove: BLOCKS }, oneParagraph, inlineRules]);

/** The paragraph, heading or cell of a text: a node whose children are its inline markup. */
export function parseInline(text: string): SyntaxNode | null {
  return inlineParser.parse(text).topNode.firstChild;
}

/** Parses a growing text into blocks. */
export class BlockReader {
  #text = "";
  #fragments: readonly TreeFragment[] = [];

  read(text: string): Tree {
    const before = this.#text;
    const same = Math.min(text.length, before.length);
    const isSame = text.startsWith(before) || before.startsWith(text); // it grew, or its end is not shown
    const change = { fromA: same, toA: before.length, fromB: same, toB: text.length };
    const fragments = isSame ? TreeFragment.applyChanges(this.#fragments, [change]) : [];
    const tree = blockParser.parse(text, fragments);
    this.#text = text;
    this.#fragments = TreeFragment.addTree(tree);
    return tree;
  }
}

/** The children of a node. */
export function childrenOf(node: SyntaxNode): SyntaxNode[] {
  const found: SyntaxNode[] = [];
  for (let child = node.firstChild; child; child = child.nextSibling) found.push(child);
  return found;
}
