// Markdown as React elements. A model's text never becomes HTML: elements are created here from the
// parser's tree, and HTML in the text is shown as text.

import { memo, useMemo, useState } from "react";
import { Blocks } from "./Blocks.tsx";
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
  const { shown, tree, definitions } = useMemo(() => {
    let tree = reader.read(text);
    const shown = isWriting ? text.slice(0, Math.max(0, endOfBlocks(text, tree))) : text;
    if (shown !== text) tree = reader.read(shown);
    const found = childrenOf(tree.topNode).flatMap((node) =>
      node.name === "Paragraph" ? [...(definitionsOf(shown.slice(node.from, node.to)) ?? [])] : [],
    );
    return { shown, tree, definitions: JSON.stringify(found) };
  }, [reader, text, isWriting]);
  const map = useMemo(() => new Map(JSON.parse(definitions) as [string, string][]), [definitions]);
  return (
    <Definitions value={map}>
      <div className={isWriting ? "markdown writing" : "markdown"}>
        <Blocks text={shown} node={tree.topNode} isLast={isWriting} />
      </div>
    </Definitions>
  );
});
