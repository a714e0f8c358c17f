// A table. A wide one scrolls sideways in a region of its own, with an edge where more of it is.

import type { SyntaxNode } from "@lezer/common";
import { type RefObject, memo, useEffect, useRef } from "react";
import { Inline } from "./Inline.tsx";
import { cellsOf, directionOf } from "./text.ts";

interface Props {
  readonly text: string;
  readonly node: SyntaxNode;
  readonly isLast: boolean;
}

type Alignment = "start" | "center" | "end" | undefined;

export function Table({ text, node, isLast }: Props) {
  const region = useRef<HTMLDivElement>(null);
  useEdges(region);
  const header = node.getChild("TableHeader");
  const delimiter = node.getChild("TableDelimiter");
  const alignments = delimiter ? alignmentsOf(text.slice(delimiter.from, delimiter.to)) : [];
  const columns = alignments.map((alignment) => alignment ?? "").join();
  const rows = node.getChildren("TableRow");
  const isLineOpen = isLast && !text.slice(node.to).includes("\n");
  return (
    <div className="table" dir={directionOf(text.slice(node.from, node.to))}>
      <div ref={region} className="scrolls" role="group" aria-label="Table" tabIndex={0}>
        <table>
          {header && (
            <thead>
              <Row cell="th" text={text} node={header} columns={columns} isOpen={false} />
            </thead>
          )}
          <tbody>
            {rows.map((row, index) => (
              <Row
                key={index}
                cell="td"
                text={text}
                node={row}
                columns={columns}
                isOpen={isLineOpen && index === rows.length - 1}
              />
            ))}
          </tbody>
        </table>
      </div>
    </div>
  );
}

interface RowProps {
  readonly cell: "th" | "td";
  readonly text: string;
  readonly node: SyntaxNode;
  /** The alignments of the columns, separated by commas. */
  readonly columns: string;
  readonly isOpen: boolean;
}

const Row = memo(
  function Row({ cell: Cell, text, node, columns, isOpen }: RowProps) {
    const row = cellsOf(text, node);
    return (
      <tr>
        {columns.split(",").flatMap((alignment, index) => {
          // Missing cells are not added: a short line in a table of many columns would become many.
          const content = row.cells[index];
          if (content === undefined) return [];
          const isGrowing = isOpen && row.isOpen && index === row.cells.length - 1;
          return (
            <Cell key={index} dir="auto" className={classOf(content, alignment, isGrowing)} scope={Cell === "th" ? "col" : undefined}>
              <Inline text={content} isOpen={isGrowing} />
            </Cell>
          );
        })}
      </tr>
    );
  },
  (one, other) =>
    one.isOpen === other.isOpen &&
    one.columns === other.columns &&
    one.text.slice(one.node.from, one.node.to) === other.text.slice(other.node.from, other.node.to),
);

/** A cell with much text, or with one long word, gets a wider column: the rest of the table scrolls. */
function classOf(content: string, alignment: string, isGrowing: boolean): string | undefined {
  const width = content.length > 60 ? "long" : content.length > 20 ? "medium" : "";
  const word = /\S{32}/.test(content) ? "breaks" : "";
  return [alignment && `align-${alignment}`, width, word, isGrowing ? "open" : ""].filter(Boolean).join(" ") || undefined;
}

function alignmentsOf(line: string): Alignment[] {
  const cells = line.replace(/^[\s>]*\|?/, "").replace(/\|?\s*$/, "").split("|");
  return cells.map((cell) => {
    const [left, right] = [cell.trim().startsWith(":"), cell.trim().endsWith(":")];
    if (left && right) return "center";
    return right ? "end" : left ? "start" : undefined;
  });
}

/** Marks a region with the sides on which more of it is hidden. */
function useEdges(ref: RefObject<HTMLElement | null>): void {
  useEffect(() => {
    const region = ref.current;
    if (!region) return undefined;
    const update = () => {
      const hidden = region.scrollWidth - region.clientWidth;
      const at = Math.abs(region.scrollLeft); // negative from right to left
      const parent = region.parentElement;
      parent?.classList.toggle("more-before", at > 1);
      parent?.classList.toggle("more-after", at < hidden - 1);
    };
    const observer = new ResizeObserver(update);
    observer.observe(region);
    if (region.firstElementChild) observer.observe(region.firstElementChild);
    region.addEventListener("scroll", update, { passive: true });
    return () => {
      observer.disconnect();
      region.removeEventListener("scroll", update);
    };
  }, [ref]);
}
