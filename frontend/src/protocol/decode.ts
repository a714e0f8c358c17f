/**
 * Decodes a frame into a message. An invalid frame is reported as a fault, never as an exception.
 *
 * Types are checked strictly. A newer server may add fields and message types: unknown fields are
 * ignored, and a message of an unknown type is told apart from an invalid one.
 */

import {
  anyObject,
  anything,
  eachOf,
  exactly,
  integer,
  isObject,
  matching,
  may,
  must,
  name,
  notNegative,
  number,
  object,
  oneOf,
  show,
  text,
  truth,
  type Check,
  type Shape,
} from "./check.js";
import {
  CONFIRMATIONS,
  END_STATUSES,
  PRESENCE_CHANGES,
  ROOM_CONFIRMATIONS,
  ROOM_VERDICTS,
  RUN_STATUSES,
  THREAD_CHANGES,
  USAGE_UNITS,
  type ControlPayloads,
  type ControlType,
  type EventPayloads,
  type EventType,
  type RoomEvents,
  type RoomEventBody,
  type RoomEventType,
  type ServerMessage,
} from "./messages.js";
import {
  agent,
  ERROR,
  errorBody,
  features,
  FILES,
  historyMessage,
  limits,
  listedThread,
  member,
  QUESTION,
  resume,
  roomEvent,
  watchedRun,
} from "./shapes.js";

export type Decoded = { readonly ok: true; readonly message: ServerMessage } | Unreadable;

export interface Unreadable {
  readonly ok: false;
  readonly fault: string;
  /** Whether the frame is valid except for its type, which a newer server may have. */
  readonly isUnknownType?: boolean;
  /** The numbers of an invalid event, if they are valid. */
  readonly seq: number | null;
  readonly seq_from?: number;
}

type Shapes<P> = { readonly [T in keyof P]: Shape<P[T]> };

const CONTROL: Shapes<Omit<ControlPayloads, "pong">> = {
  connection_established: {
    connection_id: must(name),
    session_id: must(name),
    user_id: must(name),
    server_time: must(number),
    heartbeat_interval: must(integer(1)),
    features: must(features),
    limits: must(limits),
    resume: must(resume),
    user_room: must(name),
    agents: must(eachOf(agent)),
  },
  heartbeat: { server_time: must(number) },
  auth_ok: { expires_at: must(number) },
  auth_expiring: { expires_at: must(number) },
  usage_warning: { agent_name: must(text), unit: must(oneOf(USAGE_UNITS)), limit: must(number), used: must(number) },
  server_draining: { reason: must(text), reconnect_after_ms: must(integer(0)) },
  thread_history: {
    thread_id: must(name),
    messages: must(eachOf(historyMessage)),
    has_more: must(truth),
  },
  room_joined: {
    room: must(name),
    epoch: must(name),
    offset: must(integer(0)),
    verdict: must(oneOf(ROOM_VERDICTS)),
    replayed: must(integer(0)),
    runs: may(eachOf(watchedRun)),
  },
  room_left: { room: must(name) },
  room_confirmed: { room: must(name), offset: must(integer(1)), status: must(oneOf(ROOM_CONFIRMATIONS)) },
  room_event: {
    room: must(name),
    offset: must(integer(1)),
    epoch: must(name),
    event: must(roomEvent),
    timestamp: must(number),
    offset_from: may(integer(1)),
  },
  room_gap: { room: must(name), from: must(integer(1)), to: must(integer(0)) },
  presence: { room: must(name), members: must(eachOf(member)) },
  presence_changed: { room: must(name), user_id: must(name), change: must(oneOf(PRESENCE_CHANGES)) },
  thread_list: { threads: must(eachOf(listedThread)), has_more: must(truth) },
  thread_changed: {
    thread_id: must(name),
    change: must(oneOf(THREAD_CHANGES)),
    thread: may(listedThread),
  },
  error: ERROR,
};

const EVENTS: Shapes<EventPayloads> = {
  message_confirmed: {
    message_id: must(name),
    run_id: must(name),
    thread_id: must(name),
    status: must(oneOf(CONFIRMATIONS)),
    position: may(integer(1)),
    run_status: may(oneOf(RUN_STATUSES)),
  },
  agent_started: {
    run_id: must(name),
    agent_name: must(text),
    thread_id: must(name),
    attempt: must(integer(1)),
    run: may(integer(1)),
  },
  agent_thinking: {
    run_id: must(name),
    thought: must(text),
    step_number: may(integer(0)),
    total_steps: may(integer(0)),
  },
  partial_result: { run_id: must(name), content: must(text) },
  tool_executing: {
    run_id: must(name),
    tool_call_id: must(name),
    tool_name: must(text),
    arguments: must(anything),
    truncated: may(truth),
  },
  tool_completed: {
    run_id: must(name),
    tool_call_id: must(name),
    tool_name: must(text),
    success: must(truth),
    duration_ms: must(integer(0)),
    result: may(anything),
    error: may(text),
    truncated: may(truth),
  },
  binary_result: {
    run_id: must(name),
    media_type: must(name),
    file_id: must(name),
    bytes: must(integer(0)),
  },
  agent_asking: { run_id: must(name), ...QUESTION },
  agent_answered: {
    run_id: must(name),
    question_id: must(name),
    outcome: must(name),
    answer: may(anything),
    user_id: may(name),
  },
  agent_usage: {
    run_id: must(name),
    model: must(name),
    input_tokens: must(integer(0)),
    output_tokens: must(integer(0)),
    cost: may(notNegative),
  },
  agent_completed: {
    run_id: must(name),
    status: must(oneOf(END_STATUSES)),
    duration_ms: must(integer(0)),
    result: may(anything),
    error: may(errorBody),
    truncated: may(truth),
    abandoned: may(exactly(true)),
    ...FILES,
  },
};

const ROOM_EVENTS: Shapes<Pick<RoomEvents, "room_message" | "user_message">> = {
  room_message: { user_id: may(name), content: must(anything), attachments: may(eachOf(name)) },
  user_message: {
    message_id: must(name),
    run_id: must(name),
    user_id: must(name),
    content: must(text),
    replaces: may(name),
    attachments: may(eachOf(name)),
  },
};

const checks = (shapes: object): ReadonlyMap<string, Check> =>
  new Map(Object.entries(shapes).map(([type, shape]) => [type, object(shape as Shape<object>)]));

const CONTROL_CHECKS = new Map([...checks(CONTROL), ["pong", anyObject] as const]);
const EVENT_CHECKS = checks(EVENTS);
const { message_confirmed: _, ...RUN_EVENTS } = EVENTS;
const ROOM_EVENT_CHECKS = checks({ ...RUN_EVENTS, ...ROOM_EVENTS });

const isEventType = (type: string): type is EventType => EVENT_CHECKS.has(type);
const isServerType = (type: string): type is EventType | ControlType =>
  EVENT_CHECKS.has(type) || CONTROL_CHECKS.has(type);

export type RoomEvent = {
  [T in RoomEventType]: { readonly type: T; readonly payload: RoomEvents[T] };
}[RoomEventType];

/** Returns an event of a room; null for one of an unknown type, or with a payload that does not fit. */
export function readRoomEvent(event: RoomEventBody): RoomEvent | null {
  const check = ROOM_EVENT_CHECKS.get(event.type);
  const isKnown = check !== undefined && check(event.payload, "") === null;
  return isKnown ? (event as unknown as RoomEvent) : null;
}

const number1 = integer(1);
const CORRELATION_ID = matching(/^[^]{1,128}$/u, "a string of 1 to 128 characters");

export const decode = (data: unknown): Decoded => decodeValue(parseFrame(data));

const NOT_JSON = Symbol("not JSON");
const NOT_TEXT = Symbol("not text");

/** The JSON of a text frame, for `decodeValue`. */
export function parseFrame(data: unknown): unknown {
  if (typeof data !== "string") return NOT_TEXT;
  try {
    return JSON.parse(data);
  } catch {
    return NOT_JSON;
  }
}

export function decodeValue(value: unknown): Decoded {
  if (value === NOT_TEXT) return bad("$: expected a text frame, got a binary one");
  if (value === NOT_JSON) return bad("$: expected JSON");
  if (!isObject(value)) return bad(`$: expected an object, got ${show(value)}`);
  const fault = frameFault(value);
  if (fault === null) return { ok: true, message: value as unknown as ServerMessage };
  const isUnknown = hasUnknownType(value) && (number1(value["seq"], "") === null || !("seq" in value));
  return { ...bad(fault, value), ...(isUnknown ? { isUnknownType: true } : {}) };
}

/** An unreadable frame; if it is an event, with its numbers, as far as they are valid. */
export function bad(fault: string, frame: object = {}): Unreadable {
  const { seq, seq_from } = frame as { readonly seq?: unknown; readonly seq_from?: unknown };
  if (number1(seq, "") !== null) return { ok: false, fault, seq: null };
  const isMerged = integer(1, seq as number)(seq_from, "") === null;
  return { ok: false, fault, seq: seq as number, ...(isMerged ? { seq_from: seq_from as number } : {}) };
}

/** Whether the type is all that is wrong with the envelope. */
const hasUnknownType = ({ type, timestamp, payload }: Record<string, unknown>): boolean =>
  typeof type === "string" && type !== "" && !isServerType(type) && typeof timestamp === "number" && isObject(payload);

function frameFault(frame: Record<string, unknown>): string | null {
  const type = frame["type"];
  if (typeof type !== "string" || !isServerType(type)) {
    return `$.type: expected a type of netra.v1, got ${show(type)}`;
  }
  return (
    number(frame["timestamp"], "$.timestamp") ??
    ("correlation_id" in frame ? CORRELATION_ID(frame["correlation_id"], "$.correlation_id") : null) ??
    numberFault(frame, type) ??
    payloadFault(frame, type)
  );
}

function payloadFault(frame: Record<string, unknown>, type: string): string | null {
  const check = EVENT_CHECKS.get(type) ?? CONTROL_CHECKS.get(type) ?? anyObject;
  return check(frame["payload"], "$.payload");
}

/** An event has a number, a control frame has none; only merged text covers several numbers. */
function numberFault(frame: Record<string, unknown>, type: string): string | null {
  if (!isEventType(type)) {
    return "seq" in frame ? `$.seq: expected nothing, got ${show(frame["seq"])}` : null;
  }
  const fault = number1(frame["seq"], "$.seq");
  if (fault !== null || !("seq_from" in frame)) return fault;
  if (type !== "partial_result") return `$.seq_from: expected nothing in ${type}`;
  return integer(1, frame["seq"] as number)(frame["seq_from"], "$.seq_from");
}
