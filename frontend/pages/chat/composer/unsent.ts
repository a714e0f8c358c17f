// Messages that were refused. They are stored, so that their texts survive a reload and a crash.

import type { ErrorBody } from "../../../src/index.ts";
import { namesIn, readStored, store } from "../../shared/storage.ts";

const BEGIN = "netra.unsent ";
const KEPT = 20; // messages of a thread, the newest ones
const DAYS = 30;
const DAY = 86_400_000; // ms
const NONE: readonly Unsent[] = [];

const local = () => localStorage;

export interface Unsent {
  readonly id: string;
  readonly content: string;
  readonly error: ErrorBody | null;
  /** Milliseconds since 1970. */
  readonly at: number;
}

const listeners = new Set<() => void>();
let cache: { readonly name: string; readonly text: string; readonly value: readonly Unsent[] } | null = null;

const nameOf = (user: string, thread: string) => BEGIN + JSON.stringify([user, thread]);

export function onUnsent(run: () => void): () => void {
  listeners.add(run);
  addEventListener("storage", run);
  return () => {
    listeners.delete(run);
    removeEventListener("storage", run);
  };
}

/** The stored messages of a thread, oldest first: the same list until one is added or removed. */
export function unsentIn(user: string, thread: string): readonly Unsent[] {
  const name = nameOf(user, thread);
  const value = readStored(local, name);
  const text = JSON.stringify(value);
  if (cache?.name !== name || cache.text !== text) {
    const oldest = Date.now() - DAYS * DAY;
    const list = Array.isArray(value) ? (value as readonly Unsent[]).filter(({ at }) => at > oldest) : NONE;
    cache = { name, text, value: list };
  }
  return cache.value;
}

export function rememberUnsent(user: string, thread: string, message: Unsent): void {
  const known = unsentIn(user, thread);
  if (known.some(({ id }) => id === message.id)) return;
  save(user, thread, [...known, message].slice(-KEPT));
}

export function forgetUnsent(user: string, thread: string, id: string): void {
  const known = unsentIn(user, thread);
  if (known.some((one) => one.id === id)) save(user, thread, known.filter((one) => one.id !== id));
}

/** Removes the messages of a user who signs out. */
export function forgetAllUnsent(user: string): void {
  for (const name of namesIn(local, `${BEGIN}${JSON.stringify([user]).slice(0, -1)},`)) store(local, name, null);
  for (const run of listeners) run();
}

function save(user: string, thread: string, list: readonly Unsent[]): void {
  store(local, nameOf(user, thread), list.length === 0 ? null : list);
  for (const run of listeners) run();
}
