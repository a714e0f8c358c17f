// Puts a message that was not sent into the draft of its thread.

import type { ListedFile } from "../../../src/index.ts";
import { isOnlyFiles } from "../files/describe.ts";
import { addToDraft } from "../files/uploadLists.ts";
import { drafts } from "./useDraft.ts";

interface Unsent {
  readonly content: string;
  readonly attachments: readonly ListedFile[];
}

/** The text comes before that of the draft, the files behind its own. */
export function putBack(user: string, threadId: string, { content, attachments }: Unsent): void {
  const draft = drafts.read(user, threadId);
  const text = isOnlyFiles({ content, attachments }) ? "" : content;
  if (text !== "") drafts.write(user, threadId, draft.trim() === "" || draft === text ? text : `${text}\n\n${draft}`);
  addToDraft(user, threadId, attachments);
}
