// A button that opens a menu of actions. The browser closes it at a click elsewhere.

import { type KeyboardEvent, type ReactNode, type ToggleEvent, useId, useRef } from "react";
import { MoreIcon } from "./icons.tsx";

export interface MenuItem {
  readonly text: string;
  /** The accessible name, if the text alone is ambiguous. */
  readonly name?: string;
  readonly icon: ReactNode;
  readonly onPick: () => void;
  /** Drawn as a warning. */
  readonly isHarmful?: boolean;
}

interface Props {
  readonly label: string;
  readonly items: readonly MenuItem[];
}

const GAP = 4; // pixels between the button and the menu
const LOW = 0.7; // of the window's height: below that the menu opens upwards

export function Menu({ label, items }: Props) {
  const id = useId();
  const button = useRef<HTMLButtonElement>(null);
  const menu = useRef<HTMLDivElement>(null);
  const close = () => {
    menu.current?.hidePopover();
    button.current?.focus();
  };
  const onToggle = (event: ToggleEvent<HTMLDivElement>) => {
    if (event.newState === "open") itemsIn(menu.current)[0]?.focus();
  };
  const onKeyDown = (event: KeyboardEvent) => {
    const all = itemsIn(menu.current);
    const at = all.indexOf(document.activeElement as HTMLElement);
    const next = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: -1 }[event.key];
    if (next !== undefined) all.at(next % all.length)?.focus();
    else if (event.key === "Escape" || event.key === "Tab") close();
    else return;
    event.preventDefault();
  };
  return (
    <>
      <button
        ref={button}
        type="button"
        className="square"
        aria-label={label}
        title="More"
        aria-haspopup="menu"
        popoverTarget={id}
      >
        <MoreIcon />
      </button>
      <div
        ref={menu}
        id={id}
        popover="auto"
        role="menu"
        aria-label={label}
        className="menu"
        onBeforeToggle={() => place(menu.current, button.current)}
        onToggle={onToggle}
        onKeyDown={onKeyDown}
      >
        {items.map(({ text, name, icon, onPick, isHarmful }) => (
          <button
            key={text}
            type="button"
            role="menuitem"
            tabIndex={-1}
            aria-label={name}
            className={isHarmful ? "harmful" : undefined}
            onClick={() => {
              close();
              onPick();
            }}
          >
            {icon}
            {text}
          </button>
        ))}
      </div>
    </>
  );
}

const itemsIn = (menu: HTMLElement | null) => [...(menu?.querySelectorAll<HTMLElement>("[role=menuitem]") ?? [])];

/** Put the menu at its button, with its end below or above the button's end. */
function place(menu: HTMLElement | null, button: HTMLElement | null): void {
  if (!menu || !button) return;
  const { top, right, bottom } = button.getBoundingClientRect();
  const isLow = bottom > innerHeight * LOW;
  menu.style.right = `${document.documentElement.clientWidth - right}px`;
  menu.style.top = isLow ? "auto" : `${bottom + GAP}px`;
  menu.style.bottom = isLow ? `${innerHeight - top + GAP}px` : "auto";
}
