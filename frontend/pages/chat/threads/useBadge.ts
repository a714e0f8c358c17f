// The title and the icon of the page's tab, with the number of conversations that wait for the user.

import { useEffect } from "react";
import { ICON } from "../../shared/icons.tsx";

const WAITING_ICON = new URL("/icon-waiting.svg", ICON).href;

/** @param title Null if the conversation has no title yet. */
export function useBadge(title: string | null, waiting: number): void {
  useEffect(() => {
    const name = title === null ? "Chat" : `${title} – Chat`;
    document.title = waiting === 0 ? name : `(${waiting}) ${name}`;
  }, [title, waiting]);
  const isWaiting = waiting > 0;
  useEffect(() => {
    if (!isWaiting) return undefined;
    const link = document.querySelector<HTMLLinkElement>("link[rel=icon]");
    // A page that embeds the chat has an icon of its own.
    if (link?.href !== ICON) return undefined;
    link.href = WAITING_ICON;
    return () => {
      link.href = ICON;
    };
  }, [isWaiting]);
}
