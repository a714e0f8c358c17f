// The live page: the totals, the nodes, the sessions as a tree, and the metrics of the last hour.

import { type ReactNode, useCallback, useMemo, useState } from "react";
import { useNetra } from "../../src/react/index.ts";
import { Banner } from "../shared/connection/Banner.tsx";
import { ConnectionState } from "../shared/connection/ConnectionState.tsx";
import { SignInNotice } from "../shared/connection/SignInNotice.tsx";
import { LeaveIcon } from "../shared/icons.tsx";
import type { Problem } from "../shared/problem.ts";
import { ThemeButton } from "../shared/ThemeButton.tsx";
import { ActionLog, type TakenAction } from "./actions/ActionLog.tsx";
import { ConfirmDialog } from "./actions/ConfirmDialog.tsx";
import type { Action, Outcome } from "./actions/request.ts";
import { Metrics } from "./charts/Metrics.tsx";
import { partsOf } from "./live/state.ts";
import { useLive } from "./live/useLive.ts";
import { Nodes } from "./Nodes.tsx";
import { Refused } from "./Refused.tsx";
import { Totals } from "./Totals.tsx";
import { Tree } from "./tree/Tree.tsx";

const LOGGED = 20; // actions

interface Props {
  /** The id of the user. */
  readonly user: string;
  /** The user's name for display, if it is another one. */
  readonly name?: string;
  readonly getToken: () => Promise<string>;
  readonly onSignOut: (() => void) | undefined;
  readonly onSignInAgain: (why: Problem) => void;
}

export function LivePage({ user, name = user, getToken, onSignOut, onSignInAgain }: Props) {
  const { live, updatedAt, status } = useLive();
  const error = useNetra((netra) => netra.lastError);
  const [action, setAction] = useState<Action | null>(null);
  const [taken, setTaken] = useState<readonly TakenAction[]>([]);
  const parts = useMemo(() => partsOf(live), [live]);

  const onClose = useCallback(
    (outcome: Outcome | null) => {
      if (outcome !== null && action !== null) {
        const entry = { action, text: outcome.text, at: Date.now() };
        setTaken((all) => [...all, entry].slice(-LOGGED));
      }
      // The operator may have cancelled meanwhile, and opened the dialog of another action.
      setAction((now) => (now === action ? null : now));
    },
    [action],
  );

  let content: ReactNode;
  if (status === "refused" || status === "left") content = <Refused user={user} onSignInAgain={onSignInAgain} />;
  else if (updatedAt === null) content = <p className="note empty" role="status">Waiting for the first figures…</p>;
  else {
    content = (
      <>
        <Totals parts={parts} samples={live.samples} />
        <Nodes parts={parts} onAction={setAction} />
        <Tree parts={parts} onAction={setAction} />
        <Metrics samples={live.samples} parts={parts} />
      </>
    );
  }
  return (
    <div className="page">
      <header className="top">
        <h1>Live</h1>
        <ConnectionState />
        <span className="user-name" title={user} dir="auto">{name}</span>
        <ThemeButton />
        {onSignOut && (
          <button type="button" className="square" aria-label="Sign out" title="Sign out" onClick={onSignOut}>
            <LeaveIcon />
          </button>
        )}
      </header>
      <SignInNotice onSignInAgain={onSignInAgain} />
      <Banner error={error} onSignInAgain={onSignInAgain} />
      <main className="content">
        {content}
        <ActionLog taken={taken} />
      </main>
      {action && <ConfirmDialog action={action} getToken={getToken} onClose={onClose} />}
    </div>
  );
}
