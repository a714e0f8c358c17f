/** What an application passes to `sendMessage`, as the message that the client sends. */

import type { UserEntry } from "../core/snapshot.js";
import { isObject } from "../protocol/check.js";
import { dataFault, outgoingFault } from "../protocol/encode.js";
import type { ClientMessage, MessageData } from "../protocol/messages.js";
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
  { type, payload = {}, correlation_id, data: bytes, media_type }: OutgoingMessage,
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
  const fault = outgoingFault(message) ?? (bytes === undefined ? null : dataFault(type, payload, { bytes, media_type }));
  if (fault !== null) return { fault, key };
  const data: { data?: MessageData } =
    bytes === undefined || media_type === undefined ? {} : { data: { media_type, bytes: copyOf(bytes) } };
  return { fault, key, message: { ...message, ...data } as unknown as ClientMessage };
}

/** A message as it was passed to `sendMessage`; null if it had bytes that are not kept any more. */
export function sentAgain({ type, payload }: UserEntry, data: ArrayBuffer | undefined): OutgoingMessage | null {
  const { attachments, ...rest } = payload;
  const [file] = Array.isArray(attachments) ? (attachments as readonly unknown[]) : [];
  if (!isObject(file)) return { type, payload };
  return data === undefined ? null : { type, payload: rest, data, media_type: String(file["media_type"]) };
}

/** The application may change its bytes while the message waits. */
const copyOf = (bytes: ArrayBuffer | Uint8Array): ArrayBuffer =>
  bytes instanceof ArrayBuffer ? bytes.slice() : new Uint8Array(bytes).buffer;
