// An error at a message, with a button to send the message again.

import { AlertIcon, RetryIcon } from "../../shared/icons.tsx";

interface ProblemProps {
  readonly text: string;
  readonly help: string;
  readonly id?: string | undefined;
  readonly isCalm?: boolean;
  readonly onRetry: (() => void) | undefined;
}

export function Problem({ text, help, id, isCalm = false, onRetry }: ProblemProps) {
  return (
    <div className={isCalm ? "problem calm" : "problem"}>
      {!isCalm && <AlertIcon />}
      <p>
        {text} {help && <span className="help">{help}</span>}
        {id && <span className="help"> Error id: {id}</span>}
      </p>
      {onRetry && (
        <button type="button" className="quiet" onClick={onRetry}>
          <RetryIcon />
          Send again
        </button>
      )}
    </div>
  );
}
