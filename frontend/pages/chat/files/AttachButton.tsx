// The button that opens the browser's choice of files.

import { useRef } from "react";
import type { FileSource } from "../../../src/index.ts";
import { ClipIcon } from "./icons.tsx";

export function AttachButton({ onFiles }: { onFiles: (files: readonly FileSource[]) => void }) {
  const input = useRef<HTMLInputElement>(null);
  return (
    <>
      <button type="button" className="square" aria-label="Attach files" title="Attach files" onClick={() => input.current?.click()}>
        <ClipIcon />
      </button>
      <input
        ref={input}
        type="file"
        multiple
        hidden
        onChange={({ target }) => {
          onFiles([...(target.files ?? [])]);
          // The same file can be chosen again.
          target.value = "";
        }}
      />
    </>
  );
}
