/** Encodes a message as a frame, after the checks that the server makes, so that faults show at once. */

import { binarySize, writeBinary } from "./binary.js";
import { eachOf, isObject, may, must, name, integer, matching, number, object, oneOf, anyObject, notNull, show, truth, type Check, type Shape } from "./check.js";
import { ON_BUSY, RATINGS, type AgentRequestPayload, type ClientMessage, type ClientPayloads, type ClientType, type MessageData, type UserMessagePayload } from "./messages.js";
import { utf8Bytes } from "./utf8.js";

const OPEN_PAYLOAD_BYTES = 1024; // of the payload of ping and pong: docs/protocol.md, Limits

const THREAD_ID = matching(/^[A-Za-z0-9_-]{1,64}$/, "1 to 64 characters out of A-Z, a-z, 0-9, _ and -");
// Counted in code points, as the server does: [^] with `u` matches one.
const CORRELATION_ID = matching(/^[^]{1,128}$/u, "a string of 1 to 128 characters");
const NOT_BLANK = matching(/\S/, "a text that is not blank");
const MEDIA_TYPE = matching(
  /^(?=[^]{1,127}$)[\w!#$&^.+-]+\/[\w!#$&^.+-]+(?:; ?[\w.+-]+=[\w.+-]+)*$/,
  "a media type, for example image/png",
);
const ROOM = matching(
  /^(?=[^]{1,128}$)[A-Za-z0-9_.-]+(?::[A-Za-z0-9_.-]+)*$/,
  "1 to 128 characters out of A-Z, a-z, 0-9, _, . and -, with : between the parts",
);
const QUERY_CHARACTERS = 200;
const TITLE_CHARACTERS = 200;
const COMMENT_CHARACTERS = 2_000;

const atMost = (characters: number): Check =>
  matching(new RegExp(`^[^]{0,${characters}}$`, "u"), `at most ${characters} characters`);
const both = (first: Check, second: Check): Check => (value, path) => first(value, path) ?? second(value, path);

const openPayload: Check = (value, path) => {
  const fault = anyObject(value, path);
  if (fault !== null) return fault;
  const size = utf8Bytes(JSON.stringify(value));
  return size > OPEN_PAYLOAD_BYTES ? `${path}: expected at most ${OPEN_PAYLOAD_BYTES} bytes, got ${size}` : null;
};

const objectOrText: Check = (value, path) =>
  typeof value === "string" || isObject(value) ? null : `${path}: expected an object or a string, got ${show(value)}`;

export const ATTACHMENTS = 16; // files of one message: docs/protocol.md, Files

const attachments: Check = (value, path) => {
  const fault = eachOf(name)(value, path);
  if (fault !== null) return fault;
  const ids = value as readonly string[];
  const isFine = ids.length <= ATTACHMENTS && new Set(ids).size === ids.length;
  return isFine ? null : `${path}: expected at most ${ATTACHMENTS} different file ids that are not empty`;
};

const USER_MESSAGE: Shape<UserMessagePayload> = {
  content: must(NOT_BLANK),
  thread_id: may(THREAD_ID),
  correlation_id: may(CORRELATION_ID),
  agent: may(name),
  on_busy: may(oneOf(ON_BUSY)),
  deadline_ms: may(integer(1)),
  replaces: may(name),
  attachments: may(attachments),
};

const AGENT_REQUEST: Shape<AgentRequestPayload> = {
  agent: must(name),
  input: must(objectOrText),
  thread_id: may(THREAD_ID),
  on_busy: may(oneOf(ON_BUSY)),
  deadline_ms: may(integer(1)),
  attachments: may(attachments),
};

const rating: Check = (value, path) => (value === null ? null : oneOf(RATINGS)(value, path));

const closed = <T>(shape: Shape<T>): Check => object(shape, true);

const PAYLOADS: Readonly<Record<ClientType, Check>> = {
  ping: openPayload,
  pong: openPayload,
  auth: closed<ClientPayloads["auth"]>({ token: must(name) }),
  ack: closed<ClientPayloads["ack"]>({ seq: must(integer(0)) }),
  user_message: closed(USER_MESSAGE),
  agent_request: closed(AGENT_REQUEST),
  stop_agent: closed<ClientPayloads["stop_agent"]>({ run_id: must(name) }),
  get_thread_history: closed<ClientPayloads["get_thread_history"]>({
    thread_id: must(THREAD_ID),
    limit: may(integer(1, 100)),
    before: may(name),
  }),
  answer: closed<ClientPayloads["answer"]>({
    question_id: must(name),
    answer: may(notNull),
    approve: may(truth),
  }),
  join_room: closed<ClientPayloads["join_room"]>({ room: must(ROOM), after: may(integer(0)), epoch: may(name) }),
  leave_room: closed<ClientPayloads["leave_room"]>({ room: must(ROOM) }),
  room_message: closed<ClientPayloads["room_message"]>({ room: must(ROOM), content: must(objectOrText) }),
  get_presence: closed<ClientPayloads["get_presence"]>({ room: must(ROOM) }),
  watch_thread: closed<ClientPayloads["watch_thread"]>({
    thread_id: must(THREAD_ID),
    owner: may(name),
    after: may(integer(0)),
    epoch: may(name),
  }),
  unwatch_thread: closed<ClientPayloads["unwatch_thread"]>({ thread_id: must(THREAD_ID), owner: may(name) }),
  list_threads: closed<ClientPayloads["list_threads"]>({
    limit: may(integer(1, 100)),
    before: may(THREAD_ID),
    query: may(both(NOT_BLANK, atMost(QUERY_CHARACTERS))),
  }),
  rename_thread: closed<ClientPayloads["rename_thread"]>({
    thread_id: must(THREAD_ID),
    title: must(both(NOT_BLANK, atMost(TITLE_CHARACTERS))),
  }),
  mark_read: closed<ClientPayloads["mark_read"]>({ thread_id: must(THREAD_ID), message_id: must(name) }),
  delete_thread: closed<ClientPayloads["delete_thread"]>({ thread_id: must(THREAD_ID) }),
  feedback: closed<ClientPayloads["feedback"]>({
    message_id: must(name),
    rating: must(rating),
    comment: may(atMost(COMMENT_CHARACTERS)),
  }),
};

const ENVELOPE = {
  type: must(name),
  payload: may(anyObject),
  timestamp: may(number),
  correlation_id: may(CORRELATION_ID),
};

const isClientType = (type: unknown): type is ClientType =>
  typeof type === "string" && Object.hasOwn(PAYLOADS, type);

/** The first fault of a frame that is about to be sent, with its path; null if there is none. */
export function outgoingFault(frame: unknown): string | null {
  const fault = object<{ type: string; payload?: object; timestamp?: number; correlation_id?: string }>(ENVELOPE, true)(frame, "$");
  if (fault !== null) return fault;
  const { type, payload = {} } = frame as { type: string; payload?: object };
  if (!isClientType(type)) {
    return `$.type: expected one of ${Object.keys(PAYLOADS).join(", ")}, got ${show(type)}`;
  }
  return PAYLOADS[type](payload, "$.payload");
}

/** The first fault of the bytes of a message; null if there is none. */
export function dataFault(type: string, payload: object, { media_type, bytes }: Readonly<Record<keyof MessageData, unknown>>): string | null {
  if (type !== "user_message" && type !== "room_message") return `$.data: expected nothing in ${show(type)}`;
  if ("attachments" in payload) return "$.payload.attachments: expected nothing beside data";
  if (!(bytes instanceof ArrayBuffer) && !(bytes instanceof Uint8Array)) return `$.data: expected bytes, got ${show(bytes)}`;
  return MEDIA_TYPE(media_type, "$.media_type");
}

/** A message as a frame: binary if it has bytes, else text. */
export function encode(message: ClientMessage, unixSeconds: number): string | ArrayBuffer {
  const { data } = message;
  const json = jsonOf(message, unixSeconds);
  return data === undefined ? json : writeBinary(json, data.bytes);
}

/** The length of a message's frame in bytes. */
export function frameSize(message: ClientMessage, unixSeconds: number): number {
  const { data } = message;
  const json = jsonOf(message, unixSeconds);
  return data === undefined ? utf8Bytes(json) : binarySize(json, data.bytes);
}

/** The payload in the frame of a message. */
export const framePayload = ({ payload, data }: ClientMessage): object =>
  data === undefined ? payload : { ...payload, attachments: [{ media_type: data.media_type }] };

function jsonOf(message: ClientMessage, unixSeconds: number): string {
  const { data: _, ...rest } = message;
  return JSON.stringify({ timestamp: unixSeconds, ...rest, payload: framePayload(message) });
}
