/** The checks of the objects within the server's messages. */

import {
  anyObject,
  anything,
  eachOf,
  integer,
  may,
  must,
  name,
  number,
  object,
  oneOf,
  text,
  truth,
  type Shape,
} from "./check.js";
import {
  QUESTION_KINDS,
  RATINGS,
  RESET_REASONS,
  RUN_STATUSES,
  VERDICTS,
  type AskedQuestion,
  type ErrorBody,
  type HistoryMessage,
  type HistoryQuestion,
  type HistoryStep,
  type ListedAgent,
  type ListedFile,
  type ListedThread,
  type ResumedQuestion,
  type ResumedRun,
  type ResumeState,
  type RoomEventBody,
  type ServerFeatures,
  type ServerLimits,
  type WatchedRun,
} from "./messages.js";

const INTEGER = integer(Number.MIN_SAFE_INTEGER);

const FEATURES: Shape<ServerFeatures> = {
  json_first: must(truth),
  auth_required: must(truth),
  heartbeat_supported: must(truth),
  reconnection_supported: must(truth),
  rate_limiting: must(truth),
  message_queuing: must(truth),
  resume: must(truth),
  tickets: must(truth),
};

const LIMITS: Shape<ServerLimits> = {
  max_connections_per_user: must(integer(0)),
  max_message_rate: must(integer(1)),
  heartbeat_interval: must(integer(1)),
  max_message_size: must(integer(1)),
  resume_window: must(integer(0)),
  max_file_size: may(integer(1)),
};

export const features = object(FEATURES);
export const limits = object(LIMITS);

export const ERROR: Shape<ErrorBody> = {
  code: must(name),
  error: must(text),
  timestamp: must(number),
  recoverable: must(truth),
  help: must(text),
  retry_after_ms: may(integer(0)),
  error_id: may(name),
};

export const errorBody = object(ERROR);

export const QUESTION: Shape<AskedQuestion> = {
  question_id: must(name),
  kind: must(oneOf(QUESTION_KINDS)),
  prompt: must(text),
  schema: may(anyObject),
  tool_name: may(text),
  arguments: may(anyObject),
  expires_at: must(number),
};

const RESUMED_QUESTION: Shape<ResumedQuestion> = { ...QUESTION, prompt: may(text), truncated: may(truth) };

const HISTORY_QUESTION: Shape<HistoryQuestion> = {
  ...QUESTION,
  outcome: may(name),
  answer: may(anything),
  user_id: may(name),
  truncated: may(truth),
};

const STEP: Shape<HistoryStep> = {
  type: must(name),
  at: must(integer(0)),
  thought: may(text),
  step_number: may(INTEGER),
  total_steps: may(INTEGER),
  tool_call_id: may(name),
  tool_name: may(text),
  arguments: may(anything),
  success: may(truth),
  result: may(anything),
  error: may(text),
  duration_ms: may(integer(0)),
  question_id: may(name),
  truncated: may(truth),
};

const RESUMED_RUN: Shape<ResumedRun> = {
  run_id: must(name),
  thread_id: must(name),
  correlation_id: must(name),
  run: may(integer(1)),
  status: must(oneOf(RUN_STATUSES)),
  content: must(text),
  truncated: may(truth),
  questions: may(eachOf(object(RESUMED_QUESTION))),
  steps: may(eachOf(object(STEP))),
};

const RESUME: Shape<ResumeState> = {
  verdict: must(oneOf(VERDICTS)),
  reason: may(oneOf(RESET_REASONS)),
  replayed: must(integer(0)),
  last_seq: must(integer(0)),
  runs: must(eachOf(object(RESUMED_RUN))),
};

const HISTORY_RUN: Shape<NonNullable<HistoryMessage["run"]>> = {
  run_id: must(name),
  agent_name: must(text),
  status: must(oneOf(RUN_STATUSES)),
  questions: may(eachOf(object(HISTORY_QUESTION))),
  duration_ms: may(integer(0)),
};

const FEEDBACK: Shape<NonNullable<HistoryMessage["feedback"]>> = {
  rating: must(oneOf(RATINGS)),
  comment: may(text),
};

const FILE: Shape<ListedFile> = {
  file_id: must(name),
  name: must(text),
  media_type: must(name),
  bytes: must(integer(0)),
};

export const listedFiles = eachOf(object(FILE));

/** The fields of messages that may have files. */
export const FILES = { attachments: may(eachOf(name)), files: may(listedFiles) };

const HISTORY_MESSAGE: Shape<HistoryMessage> = {
  message_id: must(name),
  role: must(oneOf(["user", "agent"])),
  content: must(text),
  created_at: must(number),
  correlation_id: may(name),
  run: may(object(HISTORY_RUN)),
  truncated: may(truth),
  reply_to: may(name),
  steps: may(eachOf(object(STEP))),
  feedback: may(object(FEEDBACK)),
  ...FILES,
};

const AGENT: Shape<ListedAgent> = { name: must(name), title: must(text), examples: must(eachOf(text)) };

const WATCHED_RUN: Shape<WatchedRun> = {
  run_id: must(name),
  message_id: must(name),
  agent_name: must(text),
  status: must(oneOf(RUN_STATUSES)),
  content: must(text),
  truncated: may(truth),
  questions: must(eachOf(object(RESUMED_QUESTION))),
  steps: may(eachOf(object(STEP))),
};

const ROOM_EVENT: Shape<RoomEventBody> = { type: must(name), payload: must(anyObject) };

const THREAD: Shape<ListedThread> = {
  thread_id: must(name),
  room: must(name),
  title: must(text),
  created_at: must(number),
  updated_at: must(number),
  runs_active: must(integer(0)),
  asks: must(truth),
  unread: must(integer(0)),
};

const MEMBER: Shape<{ user_id: string; connections: number }> = {
  user_id: must(name),
  connections: must(integer(1)),
};

export const historyMessage = object(HISTORY_MESSAGE);
export const resume = object(RESUME);
export const agent = object(AGENT);
export const watchedRun = object(WATCHED_RUN);
export const roomEvent = object(ROOM_EVENT);
export const listedThread = object(THREAD);
export const member = object(MEMBER);
