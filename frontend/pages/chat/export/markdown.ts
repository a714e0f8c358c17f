// A conversation as Markdown.

import type { AgentEntry, ChatMessage, UserEntry } from "../../../src/index.ts";
import { detailsText, nameText } from "../files/describe.ts";
import { threadOf } from "../messages/conversation.ts";

type Title = (agent: string | null) => string;

/** The messages of a thread, each below its author and time; the texts are as they were written. */
export function conversationMarkdown(title: string, messages: readonly ChatMessage[], threadId: string, titleOf: Title): string {
  const own = messages.filter((entry) => threadOf(entry) === threadId && !isUnsent(entry) && hasContent(entry));
  const parts = own.map((entry) => {
    const author = entry.role === "user" ? "You" : titleOf(agentOf(entry));
    const at = entry.timestamp > 0 ? ` – ${momentOf(entry.timestamp)}` : "";
    const files = entry.attachments.map((file) => `- ${nameText(file)} (${detailsText(file)})`).join("\n");
    const blocks = [`## ${author}${at}`, entry.content.trim(), files];
    return `${blocks.filter((block) => block !== "").join("\n\n")}\n`;
  });
  return [`# ${title.replace(/\s+/g, " ")}\n`, ...parts].join("\n");
}

const hasContent = ({ content, attachments }: ChatMessage) => content.trim() !== "" || attachments.length > 0;

const isUnsent = (entry: ChatMessage): entry is UserEntry => entry.role === "user" && entry.message_id === null;

const agentOf = ({ payload }: AgentEntry) =>
  typeof payload["agent_name"] === "string" ? payload["agent_name"] : null;

/** The local date and time, `2026-11-30 14:05`. */
function momentOf(seconds: number): string {
  const at = new Date(seconds * 1000);
  const two = (value: number) => `${value}`.padStart(2, "0");
  const day = [at.getFullYear(), two(at.getMonth() + 1), two(at.getDate())].join("-");
  return `${day} ${two(at.getHours())}:${two(at.getMinutes())}`;
}

/** A name of a file, from a title. */
export function fileNameOf(title: string): string {
  const name = title.replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-+|-+$/g, "").slice(0, 60);
  return `${name || "conversation"}.md`;
}
