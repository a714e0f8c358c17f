// Files that are pasted or dropped on the page.

import { useEffect, useState } from "react";

type OnFiles = (files: readonly File[]) => void;

/** A field with text of its own, besides the box of the message. */
const isOtherField = (target: EventTarget | null) =>
  target instanceof HTMLElement && target.matches("input, textarea, select, [contenteditable]") && target.closest(".composer") === null;

/** Takes pasted files, for example an image that was copied, wherever the focus is. */
export function usePastedFiles(onFiles: OnFiles | null): void {
  useEffect(() => {
    if (onFiles === null) return undefined;
    const onPaste = (event: ClipboardEvent) => {
      const { clipboardData: data, target } = event;
      const files = [...(data?.files ?? [])];
      // A word processor copies its text as an image, too: the text is pasted.
      if (files.length === 0 || data?.types.includes("text/plain") === true || isOtherField(target)) return;
      event.preventDefault();
      onFiles(files);
    };
    addEventListener("paste", onPaste);
    return () => removeEventListener("paste", onPaste);
  }, [onFiles]);
}

/** Takes files that are dropped anywhere. Returns whether files are over the page. */
export function useDroppedFiles(onFiles: OnFiles | null): boolean {
  const [isOver, setOver] = useState(false);
  useEffect(() => {
    if (onFiles === null) return undefined;
    const onOver = (event: DragEvent) => {
      if (event.dataTransfer?.types.includes("Files") !== true) return;
      // Otherwise the browser would leave the page, and show the file.
      event.preventDefault();
      event.dataTransfer.dropEffect = "copy";
      setOver(true);
    };
    const onLeave = ({ relatedTarget }: DragEvent) => {
      if (relatedTarget === null) setOver(false);
    };
    const onDrop = (event: DragEvent) => {
      setOver(false);
      if (event.dataTransfer?.types.includes("Files") !== true) return;
      event.preventDefault();
      const files = filesIn(event.dataTransfer);
      if (files.length > 0) onFiles(files);
    };
    const listeners = { dragenter: onOver, dragover: onOver, dragleave: onLeave, drop: onDrop } as const;
    const each = Object.entries(listeners) as ["drop", (event: DragEvent) => void][];
    for (const [name, listener] of each) addEventListener(name, listener);
    return () => {
      for (const [name, listener] of each) removeEventListener(name, listener);
      setOver(false);
    };
  }, [onFiles]);
  return isOver;
}

/** The files of a drop without folders, whose content cannot be read. */
function filesIn({ items, files }: DataTransfer): readonly File[] {
  const folders = new Set(
    [...items].filter((item) => item.webkitGetAsEntry()?.isDirectory === true).map((item) => item.getAsFile()?.name),
  );
  return [...files].filter(({ name }) => !folders.has(name));
}
