// Markdown as React elements. A model's text never becomes HTML: elements are created here from the
// lexer's tokens, and HTML in the text is shown as text.

import { Lexer, type Token, type Tokens } from "marked";
import { type ReactNode, memo, useMemo, useRef } from "react";
import { CopyButton } from "../../shared/CopyButton.tsx";
import { highlight } from "./highlight.ts";
import { decodeEntities, safeLink, splitBlocks } from "./blocks.ts";

const MAX_DEPTH = 24; // of nested lists and quotes: deeper ones are shown as text
const MAX_BLOCK = 10_000; // characters of a block: the lexer's time can grow with the square of the length

/** A text. While it grows, only its last block is parsed again. */
export const Markdown = memo(function Markdown({ text, isWriting }: { text: string; isWriting: boolean }) {
  const parts = useMemo(() => splitBlocks(text), [text]);
  return (
    <div className={isWriting ? "markdown writing" : "markdown"}>
      {parts.map((block, index) => (
        <Block key={index} text={block} />
      ))}
    </div>
  );
});

const Block = memo(function Block({ text }: { text: string }) {
  return useMemo(() => read(text), [text]);
});

function read(text: string): ReactNode {
  const isCode = /^(```|~~~)/.test(text);
  if (text.length > MAX_BLOCK && !isCode) return <p className="plain">{text}</p>;
  try {
    return blocks(new Lexer({ gfm: true, breaks: true }).lex(text), 0);
  } catch {
    // The text is nested deeper than the stack allows: show it unformatted.
    return <p className="plain">{text}</p>;
  }
}

function blocks(tokens: Token[], depth: number): ReactNode {
  return tokens.map((token, index) => <Piece key={index}>{block(token, depth + 1)}</Piece>);
}

/** A child with a key, without an element of its own. */
function Piece({ children }: { children: ReactNode }) {
  return children;
}

function block(token: Token, depth: number): ReactNode {
  if (depth > MAX_DEPTH) return <p className="plain">{token.raw}</p>;
  const known = token as Tokens.Generic & Token;
  switch (known.type) {
    case "space":
    case "def":
      return null;
    case "hr":
      return <hr />;
    case "heading":
      return <Heading depth={(known as Tokens.Heading).depth}>{inline(known, depth)}</Heading>;
    case "code":
      return <Code text={known["text"] as string} language={(known as Tokens.Code).lang ?? ""} />;
    case "blockquote":
      return <blockquote>{blocks(known.tokens ?? [], depth)}</blockquote>;
    case "list":
      return <List list={known as Tokens.List} depth={depth} />;
    case "table":
      return <Table table={known as Tokens.Table} depth={depth} />;
    case "paragraph":
      return <p>{inline(known, depth)}</p>;
    case "text":
      return inline(known, depth);
    case "html":
      return <p className="plain">{known.raw.trimEnd()}</p>;
    default:
      return spans([known], depth);
  }
}

function Heading({ depth, children }: { depth: number; children: ReactNode }) {
  // Level 1 is the page's own heading.
  const Tag = (["h2", "h3", "h4", "h5", "h6", "h6"] as const)[depth - 1] ?? "h6";
  return <Tag>{children}</Tag>;
}

function List({ list, depth }: { list: Tokens.List; depth: number }) {
  const items = list.items.map((item, index) => (
    <li key={index} className={item.task ? "task" : undefined}>
      {item.tokens.map((token, place) => (
        <Piece key={place}>
          {token.type === "text" && item.loose ? (
            <p>{inline(token, depth)}</p>
          ) : (
            block(token, depth + 1)
          )}
        </Piece>
      ))}
    </li>
  ));
  if (!list.ordered) return <ul>{items}</ul>;
  return <ol start={typeof list.start === "number" ? list.start : 1}>{items}</ol>;
}

function Table({ table, depth }: { table: Tokens.Table; depth: number }) {
  const cell = (Tag: "th" | "td", found: Tokens.TableCell, index: number) => (
    <Tag key={index} className={found.align ? `align-${found.align}` : undefined}>
      {spans(found.tokens, depth)}
    </Tag>
  );
  return (
    <div className="scrolls" role="region" aria-label="Table" tabIndex={0}>
      <table>
        <thead>
          <tr>{table.header.map((found, index) => cell("th", found, index))}</tr>
        </thead>
        <tbody>
          {table.rows.map((row, place) => (
            <tr key={place}>{row.map((found, index) => cell("td", found, index))}</tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}

function inline(token: Token, depth: number): ReactNode {
  const tokens = (token as Tokens.Generic).tokens;
  return tokens ? spans(tokens, depth) : decodeEntities((token as Tokens.Text).text);
}

function spans(tokens: Token[], depth: number): ReactNode {
  return tokens.map((token, index) => <Piece key={index}>{span(token, depth + 1)}</Piece>);
}

function span(token: Token, depth: number): ReactNode {
  if (depth > MAX_DEPTH) return token.raw;
  const known = token as Tokens.Generic & Token;
  switch (known.type) {
    case "strong":
      return <strong>{inline(known, depth)}</strong>;
    case "em":
      return <em>{inline(known, depth)}</em>;
    case "del":
      return <del>{inline(known, depth)}</del>;
    case "codespan":
      return <code>{known["text"] as string}</code>;
    case "br":
      return <br />;
    case "checkbox":
      return (
        <span className="checkbox" role="img" aria-label={known["checked"] ? "done" : "to do"}>
          {known["checked"] ? "☑" : "☐"}
        </span>
      );
    case "link":
      return <Link href={known["href"] as string}>{inline(known, depth)}</Link>;
    case "image":
      // Loading an image would tell its host who reads it, so it is shown as a link.
      return <Link href={known["href"] as string}>{`image: ${known["text"] || "no title"}`}</Link>;
    case "escape":
      return known["text"] as string;
    case "text":
      return inline(known, depth);
    default:
      return known.raw;
  }
}

function Link({ href, children }: { href: string; children: ReactNode }) {
  const safe = safeLink(href);
  if (safe === null) return <span className="no-link">{children}</span>;
  return (
    <a href={safe} target="_blank" rel="noopener noreferrer" title={safe}>
      {children}
    </a>
  );
}

function Code({ text, language }: { text: string; language: string }) {
  const code = useRef<HTMLElement>(null);
  const name = language.split(/\s/, 1)[0]?.slice(0, 30) ?? "";
  const pieces = useMemo(() => highlight(text, name), [text, name]);
  return (
    <figure className="code">
      <figcaption>
        <span>{name || "text"}</span>
        <CopyButton text={text} source={code} />
      </figcaption>
      <pre tabIndex={0} aria-label={name ? `Code, ${name}` : "Code"}>
        <code ref={code}>
          {pieces.map((piece, index) =>
            piece.kind === null ? piece.text : <span key={index} className={`hl-${piece.kind}`}>{piece.text}</span>,
          )}
        </code>
      </pre>
    </figure>
  );
}
