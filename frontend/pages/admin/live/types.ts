// The messages of the room of the live page, as docs/admin.md describes them. Times without another
// unit are seconds; `at` is in Unix seconds of the node's clock.

export interface ToolPart {
  readonly tool_call_id: string;
  readonly name: string;
  readonly age: number;
}

export type Waits = "model" | "tool" | "client" | "store" | "answer" | "queue" | "retry";

export interface RunPart {
  readonly run_id: string;
  readonly session_id: string | null;
  readonly user_id: string;
  readonly thread_id: string;
  readonly agent: string;
  readonly status: "queued" | "running";
  readonly age: number;
  readonly deadline: number | null;
  readonly attempt: number;
  readonly waits_for: Waits | null;
  readonly waits: number | null;
  readonly unattended: boolean;
  readonly tools: readonly ToolPart[];
  readonly tools_total: number;
}

export interface SessionPart {
  readonly session_id: string;
  readonly user_id: string;
  readonly acknowledging: boolean;
  readonly attached: boolean;
  readonly age: number;
  readonly window: number | null;
  readonly connections: number;
  readonly inbox: number;
  readonly runs_running: number;
  readonly runs_queued: number;
  readonly unsent: number;
  readonly log_events: number;
  readonly log_bytes: number;
}

export interface Sample {
  readonly at: number;
  readonly connections: number;
  readonly users: number;
  readonly attached: number;
  readonly detached: number;
  readonly running: number;
  readonly queued: number;
  readonly received: number;
  readonly sent: number;
  readonly errors: Readonly<Record<string, number>>;
  readonly rate_limited: Readonly<Record<string, number>>;
  readonly processing_p50: number | null;
  readonly processing_p95: number | null;
  readonly processing_p99: number | null;
  readonly first_delta_p50: number | null;
  readonly first_delta_p95: number | null;
  readonly opened: number;
  readonly refused: number;
  readonly reconnections: number;
  readonly reconnection_mean: number | null;
  readonly connection_seconds_mean: number | null;
  readonly recovered: number;
  readonly unrecovered: number;
  readonly discovery_p95: number | null;
  readonly loop_lag: number;
  readonly memory: number;
}

export type DependencyState = "ok" | "unavailable" | "no answer";

export interface NodePart {
  readonly kind: "node";
  readonly node: string;
  readonly at: number;
  readonly interval: number;
  readonly version: string;
  readonly pid: number;
  readonly uptime: number;
  readonly draining: boolean;
  readonly loop_lag: number;
  readonly memory: number;
  readonly capacity: {
    readonly connections: number;
    readonly connections_max: number;
    readonly runs: number;
    readonly runs_max: number | null;
  };
  readonly broker: { readonly state: DependencyState; readonly lag: number | null; readonly nodes: number } | null;
  readonly store: { readonly state: DependencyState };
  readonly users_by_connections: Readonly<Record<string, number>>;
  readonly totals: {
    readonly sessions: number;
    readonly attached: number;
    readonly detached: number;
    readonly running: number;
    readonly queued: number;
    readonly users: number;
  };
  readonly truncated: boolean;
  readonly sessions: readonly SessionPart[];
  readonly runs: readonly RunPart[];
  readonly now: Sample;
  readonly sample: Sample | null;
}

export interface NodeHistory {
  readonly kind: "history";
  readonly node: string;
  readonly at: number;
  readonly interval: number;
  readonly samples: readonly Sample[];
}

export interface NodeGone {
  readonly kind: "gone";
  readonly node: string;
  readonly at: number;
}

export type LiveContent = NodePart | NodeHistory | NodeGone;
