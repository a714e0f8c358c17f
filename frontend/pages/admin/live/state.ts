// The state of all nodes, after each message of the room.

import type { LiveContent, NodeHistory, NodePart, Sample } from "./types.ts";

export const STEP = 10; // seconds of a sample
export const HISTORY = 360; // samples: an hour
const SILENT = 5; // intervals without a part, after which a node counts as gone

export interface LiveNode {
  readonly part: NodePart;
  /** When the part was received, in ms of this page's clock. */
  readonly receivedAt: number;
}

export interface Live {
  /** By id. */
  readonly nodes: ReadonlyMap<string, LiveNode>;
  /** The samples of each node, the oldest first; those of a node that has ended stay for their hour. */
  readonly samples: ReadonlyMap<string, readonly Sample[]>;
}

export const NOTHING: Live = { nodes: new Map(), samples: new Map() };

/** The state after a message. @param now In ms. Messages of unknown kinds change nothing. */
export function afterContent(live: Live, content: LiveContent, now: number): Live {
  switch (content.kind) {
    case "node":
      return afterPart(live, content, now);
    case "history":
      return afterHistory(live, content);
    case "gone":
      return { ...live, nodes: without(live.nodes, content.node) };
    default:
      return live;
  }
}

function afterPart(live: Live, part: NodePart, now: number): Live {
  const nodes = new Map(live.nodes).set(part.node, { part, receivedAt: now });
  if (part.sample === null) return { ...live, nodes };
  const known = live.samples.get(part.node) ?? [];
  if (known.some(({ at }) => at === part.sample?.at)) return { ...live, nodes };
  return { nodes, samples: withSamples(live.samples, part.node, [...known, part.sample]) };
}

function afterHistory(live: Live, { node, samples }: NodeHistory): Live {
  const byTime = new Map((live.samples.get(node) ?? []).map((sample) => [sample.at, sample]));
  for (const sample of samples) byTime.set(sample.at, sample);
  return { ...live, samples: withSamples(live.samples, node, [...byTime.values()]) };
}

/** The samples of a node replaced. Nodes that ended more than an hour ago are left out. */
function withSamples(all: Live["samples"], node: string, samples: readonly Sample[]): Live["samples"] {
  const ordered = [...samples].sort((a, b) => a.at - b.at).slice(-HISTORY);
  const changed = new Map(all).set(node, ordered);
  const oldest = newestOf(changed) - HISTORY * STEP;
  return new Map([...changed].filter(([, own]) => (own.at(-1)?.at ?? 0) > oldest));
}

/** When the newest sample of all nodes ended, in Unix seconds; 0 without a sample. */
export const newestOf = (samples: Live["samples"]): number =>
  Math.max(0, ...[...samples.values()].map((own) => own.at(-1)?.at ?? 0));

/** When a node counts as gone unless a part comes from it, in ms. */
const endOf = ({ part, receivedAt }: LiveNode): number => receivedAt + SILENT * part.interval * 1000 + 1;

/** When the first node counts as gone, in ms; infinite without nodes. */
export const silentAt = ({ nodes }: Live): number => Math.min(...[...nodes.values()].map(endOf));

/** The state without nodes of which nothing has come for five intervals. The same object if there is none. */
export function withoutSilent(live: Live, now: number): Live {
  const silent = [...live.nodes].filter(([, node]) => now >= endOf(node)).map(([id]) => id);
  return silent.length === 0 ? live : { ...live, nodes: silent.reduce(without, live.nodes) };
}

/** The state after this page had no connection: each node gets its time again to send a part. */
export function afterPause({ nodes, samples }: Live, now: number): Live {
  return { nodes: new Map([...nodes].map(([id, node]) => [id, { ...node, receivedAt: now }])), samples };
}

function without(nodes: ReadonlyMap<string, LiveNode>, id: string): ReadonlyMap<string, LiveNode> {
  const left = new Map(nodes);
  left.delete(id);
  return left;
}

/** The parts of all nodes, by id. */
export const partsOf = ({ nodes }: Live): readonly NodePart[] =>
  [...nodes.values()].map(({ part }) => part).sort((a, b) => (a.node < b.node ? -1 : 1));
