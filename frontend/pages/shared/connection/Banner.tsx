// An error of the connection, with a button that helps.

import type { ReactNode } from "react";
import type { ErrorBody } from "../../../src/index.ts";
import { shallowEqual, useNetra } from "../../../src/react/index.ts";
import { Details } from "../Details.tsx";
import { explain } from "../errorText.ts";
import { AlertIcon, CloseIcon } from "../icons.tsx";
import type { Problem } from "../problem.ts";
import { wantsSignIn } from "./text.ts";

interface Props {
  /** Null if there is nothing to show. */
  readonly error: ErrorBody | null;
  readonly onSignInAgain: (why: Problem) => void;
}

export function Banner({ error, onSignInAgain }: Props) {
  const { status, isConnected } = useNetra(
    (netra) => ({ status: netra.status, isConnected: netra.isConnected }),
    shallowEqual,
  );
  const forceReconnect = useNetra((netra) => netra.forceReconnect);
  const clearError = useNetra((netra) => netra.clearError);
  if (error === null) return null;
  const { text, help, details } = explain(error);
  let action: ReactNode = null;
  if (!isConnected && wantsSignIn(error)) {
    action = (
      <button type="button" className="secondary" onClick={() => onSignInAgain(error)}>
        Sign in again
      </button>
    );
  } else if (status === "ERROR" || status === "DISCONNECTED") {
    action = (
      <button type="button" className="secondary" onClick={() => forceReconnect()}>
        Connect again
      </button>
    );
  }
  return (
    <div className={status === "RECONNECTING" ? "banner calm" : "banner"} role="alert">
      <AlertIcon />
      <div className="said">
        <p>
          {text} {help && <span className="help">{help}</span>}
        </p>
        <Details text={details} />
      </div>
      {action}
      <button type="button" className="square" aria-label="Dismiss" onClick={() => clearError()}>
        <CloseIcon />
      </button>
    </div>
  );
}
