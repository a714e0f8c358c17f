/** What the connection reports to the tabs, in the order in which it happened. */

import type { ErrorBody, ServerMessage } from "../protocol/messages.js";
import type { OutboxMessage } from "./outbox.js";

export type Update =
  | { readonly kind: "message"; readonly message: ServerMessage }
  /** A message is being sent, perhaps again. */
  | { readonly kind: "sending"; readonly message: OutboxMessage }
  /** A message was read from the stored outbox. */
  | { readonly kind: "restored"; readonly message: OutboxMessage }
  /** An event that could not be read; only its numbers are known. */
  | { readonly kind: "skipped"; readonly seq: number; readonly from: number }
  /** The connection was lost before these messages were answered. */
  | { readonly kind: "unconfirmed"; readonly keys: readonly string[] }
  /** A message was confirmed or rejected. */
  | {
      readonly kind: "settled";
      readonly message: OutboxMessage;
      readonly ok: boolean;
      readonly error: ErrorBody | null;
    };
