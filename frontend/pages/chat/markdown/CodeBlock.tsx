// A block of code with its language, and buttons to copy it and to save it as a file.

import { memo, useMemo, useRef, useState } from "react";
import { CopyButton } from "../../shared/CopyButton.tsx";
import { DownloadIcon } from "../../shared/icons.tsx";
import { saveText } from "../../shared/saveText.ts";
import { type Piece, Highlighter } from "./highlight.ts";
import { fileName } from "./fileName.ts";

const MANY = 10; // chunks of lines

interface Props {
  readonly text: string;
  /** The text after the fence. */
  readonly info: string;
  readonly isLast: boolean;
}

export function CodeBlock({ text, info, isLast }: Props) {
  const code = useRef<HTMLElement>(null);
  const name = /^[^\s{,:]{0,30}/.exec(info)?.[0] ?? "";
  const [highlighter] = useState(() => new Highlighter());
  const chunks = useMemo(() => highlighter.read(text, name), [highlighter, text, name]);
  const classes = [isLast ? "open" : "", chunks.length > MANY ? "many" : ""].filter(Boolean).join(" ") || undefined;
  return (
    <figure className="code">
      <figcaption dir="ltr">
        <span>{name || "text"}</span>
        <span className="code-buttons">
          <button
            type="button"
            className="quiet"
            aria-label={`Download ${fileName(name)}`}
            onClick={() => saveText(text, fileName(name))}
          >
            <DownloadIcon />
            <span className="button-text">Download</span>
          </button>
          <CopyButton text={text} source={code} />
        </span>
      </figcaption>
      <pre dir="ltr" tabIndex={0} aria-label={name ? `Code, ${name}` : "Code"}>
        <code ref={code} className={classes}>
          {chunks.map((pieces, index) => (
            <Chunk key={index} pieces={pieces} />
          ))}
        </code>
      </pre>
    </figure>
  );
}

/** Some lines. Those above the last ones stay as they are while the code grows. */
const Chunk = memo(function Chunk({ pieces }: { readonly pieces: readonly Piece[] }) {
  return (
    <span className="lines">
      {pieces.map((piece, index) =>
        piece.kind === null ? piece.text : <span key={index} className={`hl-${piece.kind}`}>{piece.text}</span>,
      )}
    </span>
  );
});
