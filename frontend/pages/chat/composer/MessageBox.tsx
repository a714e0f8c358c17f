// The text area of a message: Enter sends, except while an input method composes, and on devices that
// have only a touch screen, whose keyboards have no other way to begin a line.

import { type KeyboardEvent, type RefObject, useLayoutEffect } from "react";
import { isComposing } from "../../shared/keys.ts";
import { useTouch } from "../../shared/useTouch.ts";

interface Props {
  readonly box: RefObject<HTMLTextAreaElement | null>;
  readonly label: string;
  readonly text: string;
  readonly onChange: (text: string) => void;
  /** @param isUrgent Whether Ctrl or Command was pressed too. */
  readonly onSend: (isUrgent: boolean) => void;
  readonly onEscape?: () => void;
  readonly describedBy: string | undefined;
  readonly isInvalid: boolean;
  readonly placeholder?: string;
}

const MAX_HEIGHT = 220; // pixels: about nine lines, then the box scrolls

export function MessageBox({ box, label, text, onChange, onSend, onEscape, describedBy, isInvalid, placeholder }: Props) {
  const isTouch = useTouch();
  useLayoutEffect(() => fit(box.current), [box, text]);
  const onKeyDown = (event: KeyboardEvent) => {
    if (isComposing(event.nativeEvent)) return;
    const { key, shiftKey, ctrlKey, metaKey } = event;
    if (key === "Escape" && onEscape) {
      event.preventDefault();
      onEscape();
    } else if (key === "Enter" && !shiftKey && (!isTouch || ctrlKey || metaKey)) {
      event.preventDefault();
      onSend(ctrlKey || metaKey);
    }
  };
  return (
    <textarea
      ref={box}
      aria-label={label}
      aria-describedby={describedBy}
      aria-invalid={isInvalid}
      placeholder={placeholder}
      dir="auto"
      enterKeyHint={isTouch ? "enter" : "send"}
      rows={1}
      value={text}
      onChange={(event) => onChange(event.target.value)}
      onKeyDown={onKeyDown}
      autoFocus={!isTouch}
    />
  );
}

/** Make the box as high as its text. */
function fit(area: HTMLTextAreaElement | null): void {
  if (!area) return;
  area.style.height = "auto";
  area.style.height = `${Math.min(area.scrollHeight, MAX_HEIGHT)}px`;
}
