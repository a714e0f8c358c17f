// The user's rating of an answer. The server stores it with the answer, and has it in the history.

import { useCallback, useRef, useState } from "react";
import type { AgentEntry, ErrorBody, NetraClient } from "../../../src/index.ts";
import { RequestError } from "../../../src/index.ts";
import { useNetraClient } from "../../../src/react/index.ts";

export interface Feedback {
  readonly rating: "up" | "down" | null;
  readonly comment: string;
}

interface Rated extends Feedback {
  readonly problem: ErrorBody | null;
  readonly rate: (rating: Feedback["rating"], comment?: string) => void;
}

const NONE: Feedback = { rating: null, comment: "" };

export function useFeedback(entry: AgentEntry, threadId: string): Rated {
  const client = useNetraClient();
  const { message_id, run_id } = entry;
  const [given, setGiven] = useState<Feedback | null>(null);
  const [problem, setProblem] = useState<ErrorBody | null>(null);
  const queue = useRef(Promise.resolve());
  /** The newest rating, and the last one that the server has stored since this answer is shown. */
  const newest = useRef<Feedback | null>(null);
  const accepted = useRef<Feedback | null>(null);
  const stored = storedIn(entry);
  const { rating, comment } = given ?? stored;

  const rate = useCallback(
    (next: Feedback["rating"], text = "") => {
      const mine = { rating: next, comment: text };
      newest.current = mine;
      setGiven(mine);
      setProblem(null);
      // One after the other: the last one counts.
      queue.current = queue.current
        .then(async () => {
          const id = message_id ?? (await idOf(client, threadId, run_id));
          await client.sendFeedback(id, next, ...(text === "" ? [] : [text]));
          accepted.current = mine;
        })
        .catch((error: unknown) => {
          if (!(error instanceof RequestError)) throw error;
          // The user has changed it meanwhile.
          if (newest.current !== mine) return;
          setGiven(accepted.current);
          setProblem(error.body);
        });
    },
    [client, threadId, message_id, run_id],
  );
  return { rating, comment, problem, rate };
}

function storedIn({ payload }: AgentEntry): Feedback {
  const { rating, comment = "" } = (payload["feedback"] ?? NONE) as Partial<Feedback>;
  return rating === undefined ? NONE : { rating, comment };
}

/** The id of an answer that was streamed: only the history has it. */
async function idOf(client: NetraClient, threadId: string, runId: string | null): Promise<string> {
  const { messages } = await client.loadThread(threadId);
  const answer = messages.find(({ role, run }) => role === "agent" && run?.run_id === runId);
  if (answer !== undefined) return answer.message_id;
  const text = { error: "This answer is not stored.", help: "Reload the page.", recoverable: true };
  throw new RequestError({ code: "NOT_STORED", ...text, timestamp: Date.now() / 1000 });
}
