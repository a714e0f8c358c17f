// The actions of an administrator: their texts, and their requests to the server.

export type Kind = "stop" | "end" | "disable" | "drain";

export interface Action {
  readonly kind: Kind;
  /** The id of the run, session, user or node. */
  readonly target: string;
  /** What the operator should know of it, such as its user. */
  readonly about: string;
}

interface Words {
  readonly path: "runs" | "sessions" | "users" | "nodes";
  readonly title: string;
  readonly button: string;
  /** What will happen. */
  readonly effect: string;
}

export const WORDS: Record<Kind, Words> = {
  stop: {
    path: "runs",
    title: "Stop this run?",
    button: "Stop the run",
    effect: "It ends as cancelled, as if its user had stopped it. What it has written stays.",
  },
  end: {
    path: "sessions",
    title: "End this session?",
    button: "End the session",
    effect: "Its runs end as cancelled, its connection is closed, and it cannot be resumed. The user may connect again.",
  },
  disable: {
    path: "users",
    title: "Disable this user?",
    button: "Disable the user",
    effect:
      "All connections of the user are closed, and new ones are refused, until the user is enabled on the command line: netra-trio user enable.",
  },
  drain: {
    path: "nodes",
    title: "Drain this node?",
    button: "Drain the node",
    effect:
      "It accepts no more connections, gives its runs a moment to end, and its process ends. Clients connect again elsewhere. A worker is replaced; a server that runs alone stays down.",
  },
};

const ANSWER_WITHIN = 30_000; // ms: a node may ask another one

export interface Outcome {
  readonly isDone: boolean;
  readonly text: string;
}

interface Answer {
  readonly status?: string;
  readonly nodes?: readonly string[];
  readonly error?: string;
  readonly help?: string;
}

/** Sends an action. It resolves in every case: the outcome says whether it was accepted. */
export async function perform({ kind, target }: Action, getToken: () => Promise<string>): Promise<Outcome> {
  const path = `/ws/admin/${WORDS[kind].path}/${encodeURIComponent(target)}/${kind}`;
  try {
    const token = await getToken();
    const headers = { Authorization: `Bearer ${token}` };
    const answer = await fetch(path, { method: "POST", headers, signal: AbortSignal.timeout(ANSWER_WITHIN) });
    const body = await bodyOf(answer);
    if (answer.ok) return { isDone: true, text: doneText(body) };
    const text = [body.error ?? `The server answered ${answer.status}.`, body.help].filter(Boolean).join(" ");
    return { isDone: false, text };
  } catch {
    return { isDone: false, text: "The server does not answer." };
  }
}

async function bodyOf(answer: Response): Promise<Answer> {
  try {
    return (await answer.json()) as Answer;
  } catch {
    return {}; // A proxy's page.
  }
}

function doneText({ status = "accepted", nodes = [] }: Answer): string {
  return nodes.length > 0 ? `${status} at ${nodes.join(", ")}` : status;
}
