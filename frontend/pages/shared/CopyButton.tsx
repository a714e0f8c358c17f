// Copies a text, and confirms that for a moment.

import { type RefObject, useEffect, useState } from "react";
import { plainHtml } from "./html.ts";
import { CheckIcon, CopyIcon } from "./icons.tsx";

const COPIED_MS = 2_000; // that the confirmation is shown

interface Props {
  readonly text: string;
  /** The element that shows the text. */
  readonly source: RefObject<HTMLElement | null>;
  /** The object of the button's name, for screen readers. */
  readonly what?: string;
  /** Whether the element is copied too, as HTML: a word processor takes that, an editor the text. */
  readonly isRich?: boolean;
}

export function CopyButton({ text, source, what, isRich = false }: Props) {
  const [copied, setCopied] = useState(false);
  useEffect(() => {
    if (!copied) return undefined;
    const timer = setTimeout(() => setCopied(false), COPIED_MS);
    return () => clearTimeout(timer);
  }, [copied]);
  const copy = () => {
    copyText(text, isRich ? source.current : null).then(
      () => setCopied(true),
      () => {
        // A page without https must not copy: select the text instead, so that the user can.
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

async function copyText(text: string, source: Element | null): Promise<void> {
  const { clipboard } = navigator;
  if (source === null || typeof ClipboardItem === "undefined") return clipboard.writeText(text);
  const kinds = { "text/plain": text, "text/html": plainHtml(source) };
  const blobs = Object.entries(kinds).map(([type, content]) => [type, new Blob([content], { type })]);
  return clipboard.write([new ClipboardItem(Object.fromEntries(blobs) as Record<string, Blob>)]);
}
