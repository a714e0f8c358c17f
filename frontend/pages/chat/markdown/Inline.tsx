// The inside of a paragraph, heading or cell.

import type { SyntaxNode } from "@lezer/common";
import { type ReactNode, createContext, memo, useContext, useMemo } from "react";
import { childrenOf, flanking, parseInline } from "./parser.ts";
import { decodeEntity, labelOf, safeLink, splitText } from "./text.ts";
import { type Unfinished, unfinished } from "./unfinished.ts";

const MAX_DEPTH = 24; // of nested marks: deeper ones are shown as text
const MARKS = /^(?:EmphasisMark|StrikethroughMark|LinkMark|CodeMark)$/;

/** The addresses of the text's definitions, `[label]: address`. */
export const Definitions = createContext<ReadonlyMap<string, string>>(new Map());

/** A text with inline marks; at the end of an open one, unfinished marks are completed. */
export function Inline({ text, isOpen }: { readonly text: string; readonly isOpen: boolean }) {
  const parts = splitText(text);
  return parts.map((part, index) => <Part key={index} text={part} isOpen={isOpen && index === parts.length - 1} />);
}

const Part = memo(function Part({ text, isOpen }: { readonly text: string; readonly isOpen: boolean }) {
  return useMemo(() => {
    const shown: Unfinished = isOpen ? unfinished(text) : { text };
    const root = parseInline(shown.text);
    if (!isOpen) return root ? closed(shown.text, root, root.from, root.to, 0) : null;
    return opened({ text: shown.text, after: shown.after }, root ? childrenOf(root) : [], 0, 0);
  }, [text, isOpen]);
});

/** The pieces of a range in a node. */
function closed(text: string, node: SyntaxNode, from: number, to: number, depth: number): ReactNode {
  const found: ReactNode[] = [];
  let end = from;
  for (const child of childrenOf(node)) {
    if (child.from < from || child.to > to) continue;
    if (child.from > end) found.push(plain(text.slice(end, child.from)));
    found.push(element(text, child, depth + 1));
    end = child.to;
  }
  if (end < to) found.push(plain(text.slice(end, to)));
  return keyed(found);
}

/** The pieces of a text that grows: what an unfinished mark begins goes to the text's end. */
function opened(shown: Unfinished, nodes: readonly SyntaxNode[], from: number, depth: number): ReactNode {
  const { text, after } = shown;
  const found: ReactNode[] = [];
  let end = from;
  for (let index = 0; index <= nodes.length; index += 1) {
    const node = nodes[index];
    const to = node?.from ?? text.length;
    const mark = depth < MAX_DEPTH ? firstMark(text, end, to) : null;
    if (mark) {
      if (mark.from > end) found.push(plain(text.slice(end, mark.from)));
      const inside = opened(shown, nodes.slice(index), mark.to, depth + 1);
      found.push(marked(text.slice(mark.from, mark.to), inside));
      return keyed(found);
    }
    if (to > end) found.push(plain(text.slice(end, to)));
    if (node) found.push(element(text, node, depth + 1));
    end = node?.to ?? text.length;
  }
  if (after?.kind === "code") found.push(<code dir="ltr">{after.text}</code>);
  else if (after?.kind === "link") found.push(<span className="no-link"><Inline text={after.text} isOpen={false} /></span>);
  else if (after) found.push(plain(after.text));
  return keyed(found);
}

/** The first unmatched mark in a range that begins something. */
function firstMark(text: string, from: number, to: number): { from: number; to: number } | null {
  for (const { 0: run, index } of text.slice(from, to).matchAll(/\*+|_+|~~+/g)) {
    const at = from + index;
    // A part of the run may be matched: the signs around the whole run count.
    let end = at + run.length;
    while (text.charAt(end) === run.charAt(0)) end += 1;
    const { opens } = flanking(run.charAt(0), end - at, text.charAt(at - 1), text.charAt(end));
    if (opens && (run.charAt(0) !== "~" || run.length === 2)) return { from: at, to: at + run.length };
  }
  return null;
}

function marked(mark: string, inside: ReactNode): ReactNode {
  if (mark.startsWith("~")) return <del>{inside}</del>;
  const strong = mark.length > 1 ? <strong>{inside}</strong> : inside;
  return mark.length % 2 === 1 ? <em>{strong}</em> : strong;
}

function element(text: string, node: SyntaxNode, depth: number): ReactNode {
  const raw = text.slice(node.from, node.to);
  if (depth > MAX_DEPTH) return plain(raw);
  switch (node.name) {
    case "Emphasis":
      return <em>{inner(text, node, depth)}</em>;
    case "StrongEmphasis":
      return <strong>{inner(text, node, depth)}</strong>;
    case "Strikethrough":
      return <del>{inner(text, node, depth)}</del>;
    case "InlineCode":
      return <code dir="ltr">{codeText(raw)}</code>;
    case "HardBreak":
      return <br />;
    case "Escape":
      return raw.slice(1);
    case "Entity":
      return decodeEntity(raw);
    case "HTMLTag":
      return /^<br\s*\/?>$/i.test(raw) ? <br /> : raw;
    case "URL":
      return <Link href={/^www\./i.test(raw) ? `https://${raw}` : addressOf(raw)} isAddress>{raw}</Link>;
    case "Autolink":
      return <Link href={addressOf(raw.slice(1, -1))} isAddress>{raw.slice(1, -1)}</Link>;
    case "FootnoteReference":
      return <sup>{raw.slice(2, -1)}</sup>;
    case "Math":
      return <span className="math" dir="ltr">{raw}</span>;
    case "Link":
    case "Image":
      return link(text, node, depth);
    default:
      return plain(raw);
  }
}

/** A node's text between its first and its last mark. */
function inner(text: string, node: SyntaxNode, depth: number): ReactNode {
  const marks = childrenOf(node).filter(({ name }) => MARKS.test(name));
  return closed(text, node, marks[0]?.to ?? node.from, marks.at(-1)?.from ?? node.to, depth);
}

function codeText(raw: string): string {
  const size = /^`+/.exec(raw)?.[0].length ?? 0;
  const code = raw.slice(size, -size).replaceAll("\n", " ");
  return /^ .*[^ ].* $|^ [^ ] $/.test(code) ? code.slice(1, -1) : code;
}

const addressOf = (text: string) => (/^[^\s/:]+@/.test(text) ? `mailto:${text}` : text);

function link(text: string, node: SyntaxNode, depth: number): ReactNode {
  const marks = node.getChildren("LinkMark");
  const [open, close] = marks;
  if (!open || !close) return plain(text.slice(node.from, node.to));
  const label = closed(text, node, open.to, close.from, depth);
  const url = node.getChild("URL");
  if (marks.length > 2) {
    const href = url ? text.slice(url.from, url.to).replace(/^<(.*)>$/, "$1").replace(/\\(?=[!-/:-@[-`{-~])/g, "") : "";
    // Loading an image would tell its host who reads it, so it is shown as a link.
    if (node.name === "Image") return <Link href={href}>{`image: ${text.slice(open.to, close.from) || "no title"}`}</Link>;
    return <Link href={href}>{label}</Link>;
  }
  const reference = node.getChild("LinkLabel");
  const name = reference && reference.to - reference.from > 2 ? text.slice(reference.from + 1, reference.to - 1) : text.slice(open.to, close.from);
  return (
    <Reference name={name} before={text.slice(open.from, open.to)} after={text.slice(close.from, node.to)}>
      {label}
    </Reference>
  );
}

interface ReferenceProps {
  readonly name: string;
  readonly before: string;
  readonly after: string;
  readonly children: ReactNode;
}

/** `[label]`: a link if the text defines it, else brackets. */
function Reference({ name, before, after, children }: ReferenceProps) {
  const href = useContext(Definitions).get(labelOf(name));
  if (href !== undefined) return <Link href={href}>{children}</Link>;
  return (
    <>
      {before}
      {children}
      {after}
    </>
  );
}

interface LinkProps {
  readonly href: string;
  /** Whether the text is the address. */
  readonly isAddress?: boolean;
  readonly children: ReactNode;
}

function Link({ href, isAddress = false, children }: LinkProps) {
  const safe = safeLink(href);
  if (safe === null) return <span className="no-link">{children}</span>;
  return (
    <a
      href={safe}
      target="_blank"
      rel="noopener noreferrer"
      title={safe}
      dir={isAddress ? "ltr" : undefined}
      className={isAddress ? "shows-address" : undefined}
    >
      {children}
    </a>
  );
}

/** A text in which each line is shown as one. */
function plain(text: string): ReactNode {
  if (!text.includes("\n")) return text;
  return keyed(text.split("\n").flatMap((line, index) => (index ? [<br key={index} />, line] : [line])));
}

const keyed = (pieces: readonly ReactNode[]): ReactNode => pieces.map((piece, index) => <Piece key={index}>{piece}</Piece>);

/** A child with a key, without an element of its own. */
export function Piece({ children }: { readonly children: ReactNode }) {
  return children;
}
