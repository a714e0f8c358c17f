/** The size of a message, measured as the server measures it: the bytes of its frame. */

import { frameSize } from "../protocol/encode.js";
import type { ClientMessage, ErrorBody } from "../protocol/messages.js";
import { localError } from "./retry-rules.js";

export const DEFAULT_MAX_SIZE = 10_240; // bytes, the server's default: docs/protocol.md, Limits

/** Unix seconds with milliseconds: the frame of a later time is not longer, until the year 2286. */
export const LONGEST_TIME = 9_999_999_999.999;

/**
 * The error of a message that is too large; null if it fits.
 *
 * @param max Bytes.
 * @param now In milliseconds.
 * @param sentAt The time in the frame, in Unix seconds, unless the message has one already.
 */
export function sizeFault(
  message: ClientMessage,
  max: number,
  now: number,
  sentAt = now / 1000,
): ErrorBody | null {
  const size = frameSize(message, sentAt);
  if (size <= max) return null;
  const error = `The message has ${size} bytes; at most ${max} are allowed.`;
  return localError(now, "MESSAGE_TOO_LARGE", error, "Send a shorter message.");
}

/** The error of a message with bytes on a connection that carries none; null if it has none. */
export function bytesFault({ data }: ClientMessage, carriesBytes: boolean, now: number): ErrorBody | null {
  if (data === undefined || carriesBytes) return null;
  return localError(now, "BYTES_NOT_SUPPORTED", "The connection cannot carry bytes.", "Upload them as a file, and send its id.");
}
