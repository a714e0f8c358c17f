// What the user may do with messages. The components of messages use it without passing it down.

import { createContext, use } from "react";
import type { ErrorBody, UserEntry } from "../../../src/index.ts";

export interface Sending {
  /** Stops the answer at work, and is answered next. */
  readonly isUrgent?: boolean;
  /** The ids of its files. */
  readonly files?: readonly string[];
}

export interface Actions {
  readonly user: string;
  readonly threadId: string;
  /** Sends a message in the open thread. Returns why it cannot be sent; then nothing was sent. */
  readonly send: (content: string, how?: Sending) => ErrorBody | null;
  /** Why a message cannot be sent; null if it can. */
  readonly check: (content: string, files?: readonly string[]) => ErrorBody | null;
  /** Sends a message once more: one that was not sent, or one that is to be answered anew. */
  readonly again: (entry: UserEntry) => void;
  /** Puts a message that was not sent into the box. */
  readonly takeBack: (entry: UserEntry) => void;
  readonly discard: (entry: UserEntry) => void;
  /** Sends a text in place of a message and of all that follows it. Returns why it cannot. */
  readonly replace: (entry: UserEntry, content: string) => ErrorBody | null;
  /** The id of the message that is edited. */
  readonly editing: string | null;
  readonly edit: (id: string | null) => void;
}

export const ActionsContext = createContext<Actions | null>(null);

export function useActions(): Actions {
  const actions = use(ActionsContext);
  if (actions === null) throw new Error("there is no conversation around this component");
  return actions;
}
