// The keys of the whole page: Escape, and the shortcuts that concern more than one part.

import { type RefObject, useEffect } from "react";
import { flushSync } from "react-dom";
import { useNetraClient } from "../../src/react/index.ts";
import { isComposing } from "../shared/keys.ts";
import { threadOf } from "./messages/conversation.ts";
import { onCommand } from "./shortcuts.ts";
import type { Panel } from "./threads/usePanel.ts";

interface Parts {
  readonly threadId: string;
  readonly panel: Panel;
  readonly searchBox: RefObject<HTMLInputElement | null>;
  readonly onNew: () => void;
  readonly onStop: () => void;
}

export function usePageKeys({ threadId, panel, searchBox, onNew, onStop }: Parts): void {
  const { isDrawer, isOpen, open, close, toggle } = panel;
  const client = useNetraClient();

  useEffect(() => onCommand("new", onNew), [onNew]);
  useEffect(() => onCommand("sidebar", toggle), [toggle]);
  useEffect(
    () =>
      onCommand("search", () => {
        flushSync(open); // A hidden box takes no focus.
        searchBox.current?.focus();
        searchBox.current?.select();
      }),
    [open, searchBox],
  );
  useEffect(
    () =>
      onCommand("copy-last", () => {
        const { messages } = client.getSnapshot();
        const answer = messages.findLast((entry) => entry.role === "agent" && threadOf(entry) === threadId);
        // Absent in a page without https, whatever its type says.
        const clipboard = navigator.clipboard as Clipboard | undefined;
        if (answer) clipboard?.writeText(answer.content).catch(() => undefined);
      }),
    [client, threadId],
  );
  useEffect(() => {
    const onKey = (event: KeyboardEvent) => {
      // While an input method composes a character, Escape cancels only that; a dialog closes itself.
      if (event.key !== "Escape" || event.defaultPrevented || isComposing(event)) return;
      if (document.querySelector("dialog[open]") !== null) return;
      if (isDrawer && isOpen) close();
      else onStop();
    };
    addEventListener("keydown", onKey);
    return () => removeEventListener("keydown", onKey);
  }, [isDrawer, isOpen, close, onStop]);
}
