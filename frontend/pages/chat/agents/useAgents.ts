// The agents of the server, and the one that the next message of a thread goes to.

import { useCallback, useState } from "react";
import type { ListedAgent } from "../../../src/index.ts";
import { useNetra } from "../../../src/react/index.ts";
import { chooseAgent, chosenAgent } from "./choices.ts";

const NONE: readonly ListedAgent[] = [];

export interface Agents {
  /** Empty until the server has named them. */
  readonly agents: readonly ListedAgent[];
  readonly current: ListedAgent | undefined;
  readonly choose: (name: string) => void;
}

/** @param answered The agent of the thread's last answer. */
export function useAgents(user: string, threadId: string, answered: string | null): Agents {
  const agents = useAgentList();
  const [choice, setChoice] = useState<{ readonly thread: string; readonly name: string } | null>(null);
  const { here, last } = chosenAgent(user, threadId);
  const wanted = [choice?.thread === threadId ? choice.name : null, here, answered, last];
  const found = wanted.map((name) => agents.find((agent) => agent.name === name)).find((agent) => agent !== undefined);
  const choose = useCallback(
    (name: string) => {
      chooseAgent(user, threadId, name);
      setChoice({ thread: threadId, name });
    },
    [user, threadId],
  );
  return { agents, current: found ?? agents[0], choose };
}

/** The agents of the server, for a list of answers: each answer would select them again with each word. */
export const useAgentList = (): readonly ListedAgent[] => useNetra((netra) => netra.session?.agents ?? NONE);

/** The title of the agent that gave an answer. */
export const titleOfAgent = (agents: readonly ListedAgent[], name: string | null | undefined): string =>
  agents.find((agent) => agent.name === name)?.title ?? name ?? "Agent";
