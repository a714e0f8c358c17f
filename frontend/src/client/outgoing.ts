/** What an application passes to `sendMessage`, as the message that the client sends. */

import { outgoingFault } from "../protocol/encode.js";
import type { ClientMessage } from "../protocol/messages.js";
import type { OutgoingMessage } from "./api.js";

/** Messages that the client sends by itself: `joinRoom` and `watchThread` join a room for all tabs. */
const INTERNAL: ReadonlySet<string> = new Set(["ack", "auth", "join_room", "leave_room", "watch_thread", "unwatch_thread"]);

export type Outgoing =
  | { readonly fault: null; readonly key: string; readonly message: ClientMessage }
  /** Without a key, nothing that is shown can be marked as failed. */
  | { readonly fault: string; readonly key: string | null };

/**
 * @param thread Where a message that names no thread belongs.
 * @param newId Returns a key for a message that has none.
 */
export function outgoing(
  { type, payload = {}, correlation_id }: OutgoingMessage,
  thread: string,
  newId: () => string,
): Outgoing {
  const { correlation_id: inside, ...rest } = payload;
  const startsRun = type === "user_message" || type === "agent_request";
  const key = correlation_id ?? (startsRun ? inside : undefined) ?? newId();
  if (typeof key !== "string") return { fault: "$.correlation_id: expected a string", key: null };
  if (INTERNAL.has(type)) return { fault: `$.type: the client itself sends ${type}`, key };
  const content = startsRun ? { thread_id: thread, ...rest } : payload;
  const message = { type, payload: content, correlation_id: key };
  const fault = outgoingFault(message);
  return fault === null ? { fault, key, message: message as unknown as ClientMessage } : { fault, key };
}
