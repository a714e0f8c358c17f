// The actions that were taken on this page since it was opened.

import { WORDS, type Action } from "./request.ts";

export interface TakenAction {
  readonly action: Action;
  readonly text: string;
  /** In ms. */
  readonly at: number;
}

export function ActionLog({ taken }: { taken: readonly TakenAction[] }) {
  return (
    <div role="log" aria-label="Actions on this page" className="action-log">
      {taken.map(({ action, text, at }) => (
        <p key={`${at} ${action.target}`}>
          <time dateTime={new Date(at).toISOString()}>{new Date(at).toLocaleTimeString()}</time>
          {` ${WORDS[action.kind].button}: `}
          <code>{action.target}</code>
          {` – ${text}`}
        </p>
      ))}
    </div>
  );
}
