// An error at a message, with buttons for what helps.

import type { ReactNode } from "react";
import { AlertIcon } from "../../shared/icons.tsx";
import { Details } from "../../shared/Details.tsx";

interface ProblemProps {
  readonly text: string;
  readonly help: string;
  readonly details?: string | null | undefined;
  readonly isCalm?: boolean;
  /** Buttons. */
  readonly children?: ReactNode;
}

export function Problem({ text, help, details = null, isCalm = false, children }: ProblemProps) {
  return (
    <div className={isCalm ? "problem calm" : "problem"}>
      {!isCalm && <AlertIcon />}
      <div className="problem-text">
        <p>
          <span dir="auto">{text}</span> {help && <span className="help">{help}</span>}
        </p>
        <Details text={details} />
      </div>
      {children}
    </div>
  );
}
