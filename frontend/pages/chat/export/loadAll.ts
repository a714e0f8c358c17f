// All messages of a thread: the pages that are not loaded yet, one after the other.

import { type NetraClient, RequestError } from "../../../src/index.ts";
import { LATER } from "../later.ts";
import { conversationOf } from "../messages/conversation.ts";

const PAGE = 100; // messages, the most that the server sends at once
const TRIES = 5; // of a page that the server cannot send now
const PAUSE = 1_000; // ms, where the server states no delay

/** Loads the whole history of a thread. Rejects with `RequestError`. */
export async function loadAll(client: NetraClient, threadId: string, onProgress: (messages: number) => void): Promise<void> {
  let count = 0;
  for (let before = oldestOf(client, threadId); before !== undefined; ) {
    const page = await loadPage(client, threadId, before);
    count += page.messages.length;
    onProgress(count);
    before = page.has_more ? page.messages[0]?.message_id : undefined;
  }
}

const oldestOf = (client: NetraClient, threadId: string) => conversationOf(client.getSnapshot(), threadId).oldest;

async function loadPage(client: NetraClient, threadId: string, before: string) {
  for (let tries = 1; ; tries += 1) {
    try {
      return await client.loadThread(threadId, { limit: PAGE, before });
    } catch (error) {
      const mayWait = error instanceof RequestError && LATER.has(error.body.code) && tries < TRIES;
      if (!mayWait) throw error;
      await new Promise((resolve) => setTimeout(resolve, error.body.retry_after_ms ?? PAUSE));
    }
  }
}
