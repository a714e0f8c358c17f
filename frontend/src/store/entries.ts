/** Entries of a conversation, made from a message, from a run, or from the history. */

import { framePayload } from "../protocol/encode.js";
import type { HistoryMessage } from "../protocol/messages.js";
import { attachedFiles } from "../core/attachments.js";
import type { OutboxMessage } from "../core/outbox.js";
import { partsAt, placesOfSteps } from "../core/parts.js";
import type { UserMessageEvent } from "../core/rooms.js";
import type { AgentEntry, Run, UserEntry } from "../core/snapshot.js";

/** @param timestamp In Unix seconds. */
export function userEntry(
  { key, message, files }: OutboxMessage,
  type: string,
  content: string,
  timestamp: number,
): UserEntry {
  return {
    role: "user",
    id: key,
    type,
    payload: { ...framePayload(message) },
    content,
    correlation_id: key,
    thread_id: message.payload.thread_id ?? null,
    message_id: null,
    run_id: null,
    run_status: null,
    status: "pending",
    error: null,
    attachments: attachedFiles(message.payload, files),
    timestamp,
  };
}

/** A message that another session has sent. */
export function watchedEntry(message: UserMessageEvent, thread: string, timestamp: number): UserEntry {
  const { message_id, run_id, content } = message;
  return {
    role: "user",
    id: message_id,
    type: "user_message",
    payload: { content, ...idsOf(message) },
    content,
    correlation_id: null,
    thread_id: thread,
    message_id,
    run_id,
    run_status: null,
    status: "confirmed",
    error: null,
    attachments: attachedFiles(message),
    timestamp,
  };
}

/** The ids of the files of a message, which it keeps if it is sent again. */
const idsOf = ({ attachments }: Pick<HistoryMessage, "attachments">): Pick<HistoryMessage, "attachments"> =>
  attachments === undefined ? {} : { attachments };

export function contentOf({ message }: OutboxMessage): string {
  if (message.type === "user_message") return message.payload.content;
  const { input } = message.payload;
  return typeof input === "string" ? input : JSON.stringify(input);
}

/** The answer of a run, to a message that may not be known. */
export function runEntry(run: Run, question: UserEntry | undefined): AgentEntry {
  return {
    role: "agent",
    id: run.run_id,
    type: "agent_message",
    payload: { content: run.text },
    content: run.text,
    correlation_id: run.correlation_id,
    thread_id: run.thread_id,
    message_id: null,
    run_id: run.run_id,
    status: run.status,
    error: run.error,
    truncated: run.truncated,
    parts: run.parts,
    reply_to: question?.message_id ?? null,
    attachments: run.attachments,
    timestamp: question?.timestamp ?? 0,
  };
}

/** @param id The id of the same message before it was in the history, if it was shown. */
export function questionFromHistory(message: HistoryMessage, thread: string, id: string | undefined): UserEntry {
  return {
    role: "user",
    id: id ?? message.correlation_id ?? message.message_id,
    type: "user_message",
    payload: { content: message.content, ...idsOf(message) },
    content: message.content,
    correlation_id: message.correlation_id ?? null,
    thread_id: thread,
    message_id: message.message_id,
    run_id: message.run?.run_id ?? null,
    run_status: null,
    status: "confirmed",
    error: null,
    attachments: attachedFiles(message, message.files),
    timestamp: message.created_at,
  };
}

/** @param asked The agent that the last question was for; a message of before 0.2 has no run. */
export function answerFromHistory(
  message: HistoryMessage,
  thread: string,
  asked: string | null,
): AgentEntry {
  const { run, feedback } = message;
  const agent = run?.agent_name ?? asked;
  return {
    role: "agent",
    // The same as while the run was live.
    id: run?.run_id ?? message.message_id,
    type: "agent_message",
    payload: {
      content: message.content,
      ...(agent === null ? {} : { agent_name: agent }),
      ...(feedback === undefined ? {} : { feedback }),
    },
    content: message.content,
    correlation_id: null,
    thread_id: thread,
    message_id: message.message_id,
    run_id: run?.run_id ?? null,
    status: run?.status ?? "completed",
    error: null,
    truncated: message.truncated === true,
    parts: partsAt(placesOfSteps(message.steps ?? [], message.content), message.content.length),
    reply_to: message.reply_to ?? null,
    attachments: attachedFiles(message, message.files),
    timestamp: message.created_at,
  };
}

/** Whether a message of the history contains the text that was received of a run. */
export function isAnswerOf({ role, content, truncated }: HistoryMessage, run: Run): boolean {
  if (role !== "agent") return false;
  if (content.startsWith(run.text) || (run.truncated && content.includes(run.text))) return true;
  return truncated === true && run.text.startsWith(content);
}
