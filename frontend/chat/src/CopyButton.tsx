// Copies a text, and says for a moment that it has.

import { type RefObject, useEffect, useState } from "react";
import { CheckIcon, CopyIcon } from "./icons.tsx";

const COPIED_MS = 2_000; // it says so long that it has copied

interface Props {
  readonly text: string;
  /** Where the text stands on the page. */
  readonly source: RefObject<HTMLElement | null>;
  /** What is copied, where that needs to be said. */
  readonly what?: string;
}

export function CopyButton({ text, source, what }: Props) {
  const [copied, setCopied] = useState(false);
  useEffect(() => {
    if (!copied) return undefined;
    const timer = setTimeout(() => setCopied(false), COPIED_MS);
    return () => clearTimeout(timer);
  }, [copied]);
  const copy = () => {
    copyText(text).then(
      () => setCopied(true),
      () => {
        // A page without https may not copy: leave the text selected, to be copied by hand.
        if (source.current) getSelection()?.selectAllChildren(source.current);
      },
    );
  };
  return (
    <button type="button" className="quiet" aria-label={what && (copied ? `Copied ${what}` : `Copy ${what}`)} onClick={copy}>
      {copied ? <CheckIcon /> : <CopyIcon />}
      {copied ? "Copied" : "Copy"}
    </button>
  );
}

async function copyText(text: string): Promise<void> {
  await navigator.clipboard.writeText(text);
}
