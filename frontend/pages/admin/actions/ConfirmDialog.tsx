// Asks for a confirmation of an action, and shows its outcome.

import { useLayoutEffect, useRef, useState } from "react";
import { AlertIcon } from "../../shared/icons.tsx";
import { type Action, type Outcome, perform, WORDS } from "./request.ts";

interface Props {
  readonly action: Action;
  readonly getToken: () => Promise<string>;
  /** `outcome` is null if the operator cancels; it may follow, if the request was on its way. */
  readonly onClose: (outcome: Outcome | null) => void;
}

export function ConfirmDialog({ action, getToken, onClose }: Props) {
  const dialog = useRef<HTMLDialogElement>(null);
  const [isBusy, setBusy] = useState(false);
  const [problem, setProblem] = useState("");
  const { title, effect, button } = WORDS[action.kind];
  // In a layout effect, the dialog is closed before it is removed: the browser then returns the focus to the
  // button that has opened it.
  useLayoutEffect(() => {
    const shown = dialog.current;
    shown?.showModal();
    return () => shown?.close();
  }, []);
  const confirm = async () => {
    if (isBusy) return;
    setBusy(true);
    setProblem("");
    const outcome = await perform(action, getToken);
    if (outcome.isDone || dialog.current === null) onClose(outcome);
    else {
      setBusy(false);
      setProblem(outcome.text);
    }
  };
  return (
    <dialog ref={dialog} className="confirm" aria-labelledby="confirm-title" onCancel={() => onClose(null)}>
      <h2 id="confirm-title">{title}</h2>
      <p>
        <code>{action.target}</code> {action.about}
      </p>
      <p className="help">{effect}</p>
      {problem && (
        <div className="problem" role="alert">
          <AlertIcon />
          <p>{problem}</p>
        </div>
      )}
      <div className="buttons">
        <button type="button" className="secondary" onClick={() => onClose(null)}>
          Cancel
        </button>
        <button type="button" className="primary danger" aria-disabled={isBusy} onClick={() => void confirm()}>
          {isBusy ? "Sending…" : button}
        </button>
      </div>
    </dialog>
  );
}
