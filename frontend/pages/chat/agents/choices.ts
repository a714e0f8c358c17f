// The agent that the user has chosen, for each thread, and for new threads the one chosen last.

import { local, readStored, store } from "../../shared/storage.ts";
import { dataName } from "../../shared/userData.ts";

const KEPT = 100; // threads with a choice, the newest ones

interface Choices {
  readonly last: string | null;
  /** The newest choice first. */
  readonly threads: readonly (readonly [thread: string, agent: string])[];
}

const nameOf = (user: string) => dataName("agents", user);

function choicesOf(user: string): Choices {
  const value = readStored(local, nameOf(user)) as Partial<Choices> | null;
  const last = typeof value?.last === "string" ? value.last : null;
  return { last, threads: Array.isArray(value?.threads) ? value.threads : [] };
}

/** The agent chosen in a thread; in another one the agent chosen last; null if none was chosen. */
export function chosenAgent(user: string, thread: string): { readonly here: string | null; readonly last: string | null } {
  const { last, threads } = choicesOf(user);
  return { here: threads.find(([id]) => id === thread)?.[1] ?? null, last };
}

export function chooseAgent(user: string, thread: string, agent: string): void {
  const others = choicesOf(user).threads.filter(([id]) => id !== thread);
  const threads = [[thread, agent] as const, ...others].slice(0, KEPT);
  store(local, nameOf(user), { last: agent, threads });
}
