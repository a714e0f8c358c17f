// The dialog that lists the shortcuts, and the keys that execute them.

import { useEffect, useRef } from "react";
import { CloseIcon } from "../shared/icons.tsx";
import { commandOf, execute, namesOf, onCommand, SHORTCUTS } from "./shortcuts.ts";

export function Shortcuts() {
  const dialog = useRef<HTMLDialogElement>(null);
  const close = () => dialog.current?.close();

  useEffect(
    () =>
      onCommand("help", () => {
        if (dialog.current?.open === true) dialog.current.close();
        else dialog.current?.showModal();
      }),
    [],
  );
  useEffect(() => {
    const onKey = (event: KeyboardEvent) => {
      const command = event.defaultPrevented ? null : commandOf(event);
      if (command === null || (document.querySelector("dialog[open]") !== null && command !== "help")) return;
      if (execute(command)) event.preventDefault();
    };
    addEventListener("keydown", onKey);
    return () => removeEventListener("keydown", onKey);
  }, []);
  return (
    <dialog
      ref={dialog}
      className="help-dialog"
      aria-labelledby="shortcuts"
      onClick={(event) => event.target === dialog.current && close()}
    >
      <div className="help-content">
        <div className="help-top">
          <h2 id="shortcuts">Keyboard shortcuts</h2>
          <button type="button" className="square" aria-label="Close" onClick={close}>
            <CloseIcon />
          </button>
        </div>
        <dl>
          {SHORTCUTS.map((shortcut) => (
            <div key={shortcut.text}>
              <dt>
                {shortcut.text}
                {shortcut.where && <span className="help"> {shortcut.where}</span>}
              </dt>
              <dd>
                {namesOf(shortcut).map((key) => (
                  <kbd key={key}>{key}</kbd>
                ))}
              </dd>
            </div>
          ))}
        </dl>
      </div>
    </dialog>
  );
}
