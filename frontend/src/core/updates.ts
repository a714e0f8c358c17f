/** What the connection reports to the tabs, in the order in which it happened. */

import type { ErrorBody, ServerMessage, ServerMessageOf } from "../protocol/messages.js";
import type { OutboxMessage } from "./outbox.js";
import type { RoomPosition, RoomState } from "./rooms.js";

export type Update =
  | { readonly kind: "message"; readonly message: ServerMessage }
  /** A frame of a room, and the position before it: a tab at another one has missed something. */
  | {
      readonly kind: "room";
      readonly key: string;
      readonly before: RoomPosition;
      readonly message: ServerMessageOf<"room_event" | "room_gap" | "room_left">;
    }
  /** The whole state of a room. */
  | { readonly kind: "room_state"; readonly key: string; readonly state: RoomState }
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
