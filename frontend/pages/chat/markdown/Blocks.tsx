// The blocks of a text: paragraphs, headings, lists, quotes. A block is rendered again only if its
// own text changed.

import type { SyntaxNode, Tree } from "@lezer/common";
import { type ReactElement, type ReactNode, memo } from "react";
import { CodeBlock } from "./CodeBlock.tsx";
import { Inline } from "./Inline.tsx";
import { Table } from "./Table.tsx";
import { childrenOf } from "./parser.ts";
import { definitionsOf, directionOf, textWithin } from "./text.ts";

interface BlockProps {
  /** The text that the positions of the node are in. */
  readonly text: string;
  readonly node: SyntaxNode;
  /** Whether it is the last block of a text that grows. */
  readonly isLast: boolean;
}

const NO_BLOCKS = /^(?:ListMark|QuoteMark|HeaderMark)$/;

interface KnownBlock {
  readonly name: string;
  readonly text: string;
  readonly isLast: boolean;
  readonly element: ReactElement;
}

/**
 * The elements of a growing text's outer blocks. A block keeps its element while its own text is the
 * same, and refers to nothing of the whole text: each of a thousand blocks would keep another version of it.
 */
export class OuterBlocks {
  #known: readonly KnownBlock[] = [];

  /** @param isGrowing Whether the last block may go on. */
  read(text: string, tree: Tree, isGrowing: boolean): readonly ReactElement[] {
    const nodes = blocksIn(tree.topNode);
    this.#known = nodes.map((node, index) => {
      const isLast = isGrowing && index === nodes.length - 1;
      const piece = text.slice(node.from, isLast ? text.length : node.to);
      const known = this.#known[index];
      if (known?.name === node.name && known.isLast === isLast && known.text === piece) return known;
      const own = ownCopy(piece);
      const element = <Block key={index} text={own} node={node.toTree().topNode} isLast={isLast} />;
      return { name: node.name, text: own, isLast, element };
    });
    return this.#known.map(({ element }) => element);
  }
}

/** A text that does not share its memory: engines keep the whole text alive for a part of it. */
const ownCopy = (part: string): string => ` ${part}`.slice(1);

const blocksIn = (node: SyntaxNode): readonly SyntaxNode[] =>
  childrenOf(node).filter(({ name }) => !NO_BLOCKS.test(name));

/** The blocks in a block. */
function Blocks({ text, node, isLast }: BlockProps) {
  const nodes = blocksIn(node);
  return nodes.map((child, index) => (
    <Block key={index} text={text} node={child} isLast={isLast && index === nodes.length - 1} />
  ));
}

const Block = memo(function Block({ text, node, isLast }: BlockProps) {
  const { name } = node;
  switch (name) {
    case "Paragraph":
      return <Paragraph text={text} node={node} isLast={isLast} />;
    case "Task":
      return <Task text={text} node={node} isLast={isLast} />;
    case "HorizontalRule":
      return <hr />;
    case "FencedCode":
    case "CodeBlock":
      return <CodeBlock text={codeOf(text, node)} info={infoOf(text, node)} isLast={isLast} />;
    case "Blockquote":
      return (
        <blockquote dir={directionOf(text.slice(node.from, node.to))}>
          <Blocks text={text} node={node} isLast={isLast} />
        </blockquote>
      );
    case "BulletList":
    case "OrderedList":
      return <List text={text} node={node} isLast={isLast} />;
    case "Table":
      return <Table text={text} node={node} isLast={isLast} />;
    default:
      if (/Heading\d$/.test(name)) return <Heading text={text} node={node} isLast={isLast} />;
      return <Plain text={textWithin(text, node)} />;
  }
}, isSameBlock);

/** Whether two blocks look the same: the text of each is what it is made from. */
function isSameBlock(one: BlockProps, other: BlockProps): boolean {
  return (
    one.isLast === other.isLast &&
    one.node.name === other.node.name &&
    one.text.slice(one.node.from, one.node.to) === other.text.slice(other.node.from, other.node.to) &&
    (!one.isLast || one.text.slice(one.node.to) === other.text.slice(other.node.to))
  );
}

/** Whether the text may go on in a block: no empty line ends it. */
const isOpen = ({ text, node, isLast }: BlockProps) => isLast && !/\n[\s>]*\n/.test(text.slice(node.to));

const classOf = (isLast: boolean) => (isLast ? "open" : undefined);

function Paragraph(block: BlockProps) {
  const text = textWithin(block.text, block.node).replace(/\n[ \t]+/g, "\n");
  if (definitionsOf(text)) return null;
  const [note, name] = /^\[\^([^\s\][^]{1,32})\]:\s*/.exec(text) ?? [];
  if (note !== undefined) {
    return (
      <p dir="auto" className={block.isLast ? "footnote open" : "footnote"}>
        <sup>{name}</sup> <Inline text={text.slice(note.length)} isOpen={isOpen(block)} />
      </p>
    );
  }
  return (
    <p dir="auto" className={classOf(block.isLast)}>
      <Inline text={text} isOpen={isOpen(block)} />
    </p>
  );
}

function Task(block: BlockProps) {
  const text = textWithin(block.text, block.node).replace(/\n[ \t]+/g, "\n");
  const isDone = /^\[x/i.test(text);
  return (
    <p dir="auto" className={classOf(block.isLast)}>
      <span className="checkbox" role="img" aria-label={isDone ? "done" : "to do"}>
        {isDone ? "☑" : "☐"}
      </span>{" "}
      <Inline text={text.slice(3).trimStart()} isOpen={isOpen(block)} />
    </p>
  );
}

function Heading({ text, node, isLast }: BlockProps) {
  // Level 1 is the page's own heading.
  const Tag = (["h2", "h3", "h4", "h5", "h6", "h6"] as const)[Number(node.name.at(-1)) - 1] ?? "h6";
  const marks = node.getChildren("HeaderMark");
  const isUnderlined = node.name.startsWith("Setext");
  const from = isUnderlined ? node.from : (marks[0]?.to ?? node.from);
  const to = (isUnderlined ? marks[0] : marks[1])?.from ?? node.to;
  const isGrowing = isLast && !text.slice(node.to).includes("\n");
  return (
    <Tag dir="auto" className={classOf(isLast)}>
      <Inline text={textWithin(text, node, from, to).replace(/\n[ \t]+/g, "\n").trim()} isOpen={isGrowing} />
    </Tag>
  );
}

function List({ text, node, isLast }: BlockProps) {
  const nodes = node.getChildren("ListItem");
  const items = nodes.map((item, index) => (
    <Item
      key={index}
      text={text}
      node={item}
      isLast={isLast && index === nodes.length - 1}
      isApart={index > 0 && /\n[\s>]*\n/.test(text.slice(nodes[index - 1]?.to, item.from))}
    />
  ));
  const dir = directionOf(text.slice(node.from, node.to));
  if (node.name === "BulletList") return <ul dir={dir}>{items}</ul>;
  const mark = nodes[0]?.getChild("ListMark");
  return <ol dir={dir} start={mark ? Number.parseInt(text.slice(mark.from, mark.to), 10) : 1}>{items}</ol>;
}

interface ItemProps extends BlockProps {
  /** Whether an empty line is before it. */
  readonly isApart: boolean;
}

const Item = memo(
  function Item({ text, node, isLast, isApart }: ItemProps): ReactNode {
    const classes = [node.getChild("Task") ? "task" : "", isApart ? "apart" : ""].filter(Boolean).join(" ");
    return (
      <li className={classes || undefined}>
        <Blocks text={text} node={node} isLast={isLast} />
      </li>
    );
  },
  (one, other) => one.isApart === other.isApart && isSameBlock(one, other),
);

/** HTML, as text. */
function Plain({ text }: { readonly text: string }) {
  if (/^(?:\s*<br\s*\/?>)+\s*$/i.test(text)) return <br />;
  return <p dir="auto" className="plain">{text.trimEnd()}</p>;
}

function codeOf(text: string, node: SyntaxNode): string {
  return node.getChildren("CodeText").map(({ from, to }) => text.slice(from, to)).join("");
}

function infoOf(text: string, node: SyntaxNode): string {
  const info = node.getChild("CodeInfo");
  return info ? text.slice(info.from, info.to) : "";
}
