// The sessions of all nodes with their runs, as the page lists them.

import type { NodePart, RunPart, SessionPart } from "./types.ts";

export interface TreeSession {
  readonly node: string;
  /** Null for runs that have left their session. */
  readonly session: SessionPart | null;
  readonly runs: readonly RunPart[];
}

export interface TreeFilter {
  /** Words, each of which has to be in an id, a user, an agent, a tool or a node. */
  readonly text: string;
  /** Whether to list sessions without a run. */
  readonly idle: boolean;
}

/** Sessions with runs first; of these and of the others the newest first, so that rows keep their places. */
export function treeOf(parts: readonly NodePart[], { text, idle }: TreeFilter): readonly TreeSession[] {
  const words = text.toLowerCase().split(/\s+/).filter(Boolean);
  const all = parts.flatMap(sessionsOf);
  const shown = all.filter(({ runs }) => idle || runs.length > 0).filter((session) => isFound(session, words));
  const ageOf = ({ session, runs }: TreeSession) => session?.age ?? runs[0]?.age ?? 0;
  return shown.sort((a, b) => Number(b.runs.length > 0) - Number(a.runs.length > 0) || ageOf(a) - ageOf(b));
}

function sessionsOf({ node, sessions, runs }: NodePart): TreeSession[] {
  const bySession = new Map<string | null, RunPart[]>();
  for (const run of runs) {
    const siblings = bySession.get(run.session_id);
    if (siblings) siblings.push(run);
    else bySession.set(run.session_id, [run]);
  }
  const listed = sessions.map((session) => ({ node, session, runs: bySession.get(session.session_id) ?? [] }));
  const known = new Set(sessions.map(({ session_id }) => session_id));
  // Unattended runs, and runs of sessions that are beyond the limit of the list.
  const others = runs.filter(({ session_id }) => session_id === null || !known.has(session_id));
  return [...listed, ...others.map((run) => ({ node, session: null, runs: [run] }))];
}

function isFound({ node, session, runs }: TreeSession, words: readonly string[]): boolean {
  if (words.length === 0) return true;
  const texts = [
    ...[node, session?.session_id, session?.user_id],
    ...runs.flatMap(({ run_id, user_id, agent, thread_id, waits_for, tools }) => [
      ...[run_id, user_id, agent, thread_id, waits_for],
      ...tools.map(({ name }) => name),
    ]),
  ];
  const whole = texts.filter(Boolean).join("\n").toLowerCase();
  return words.every((word) => whole.includes(word));
}
