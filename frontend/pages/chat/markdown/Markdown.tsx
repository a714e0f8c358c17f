// Markdown as React elements. A model's text never becomes HTML: elements are created here from the
// parser's tree, and HTML in the text is shown as text.

import { memo, useMemo, useState } from "react";
import { OuterBlocks } from "./Blocks.tsx";
import { Definitions } from "./Inline.tsx";
import { BlockReader, childrenOf } from "./parser.ts";
import { definitionsOf } from "./text.ts";
import { endOfBlocks } from "./unfinished.ts";

interface Props {
  readonly text: string;
  /** Whether the text grows: then half of a mark at its end is not shown. */
  readonly isWriting: boolean;
}

/** A text. While it grows, only its last block is parsed again. */
export const Markdown = memo(function Markdown({ text, isWriting }: Props) {
  const [reader] = useState(() => new BlockReader());
  const [outer] = useState(() => new OuterBlocks());
  const { blocks, definitions } = useMemo(() => {
    let tree = reader.read(text);
    const shown = isWriting ? text.slice(0, Math.max(0, endOfBlocks(text, tree))) : text;
    if (shown !== text) tree = reader.read(shown);
    const found = childrenOf(tree.topNode).flatMap((node) =>
      node.name === "Paragraph" ? [...(definitionsOf(shown.slice(node.from, node.to)) ?? [])] : [],
    );
    return { blocks: outer.read(shown, tree, isWriting), definitions: JSON.stringify(found) };
  }, [reader, outer, text, isWriting]);
  const map = useMemo(() => new Map(JSON.parse(definitions) as [string, string][]), [definitions]);
  return (
    <Definitions value={map}>
      <div className={isWriting ? "markdown writing" : "markdown"}>{blocks}</div>
    </Definitions>
  );
});
