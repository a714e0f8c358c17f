// Messages that were refused. They are stored, so that their texts survive a reload and a crash.

import type { ErrorBody, ListedFile } from "../../../src/index.ts";
import { local, readStored, store } from "../../shared/storage.ts";
import { dataName, dataOf, onForgotten } from "../../shared/userData.ts";

const KEPT = 20; // messages of a thread, the newest ones
const THREADS = 50; // with such messages, those with the newest ones
const DAYS = 30;
const DAY = 86_400_000; // ms
const NONE: readonly Unsent[] = [];

export interface Unsent {
  readonly id: string;
  readonly content: string;
  /** Absent in what an earlier version has stored. */
  readonly attachments?: readonly ListedFile[];
  readonly error: ErrorBody | null;
  /** Milliseconds since 1970. */
  readonly at: number;
}

const listeners = new Set<() => void>();
let cache: { readonly name: string; readonly text: string; readonly value: readonly Unsent[] } | null = null;

const nameOf = (user: string, thread: string) => dataName("unsent", user, thread);

export function onUnsent(run: () => void): () => void {
  listeners.add(run);
  addEventListener("storage", run);
  const end = onForgotten(run);
  return () => {
    end();
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
    cache = { name, text, value: kept(value) };
  }
  return cache.value;
}

export function rememberUnsent(user: string, thread: string, message: Unsent): void {
  const known = unsentIn(user, thread);
  if (known.some(({ id }) => id === message.id)) return;
  save(user, thread, [...known, message].slice(-KEPT));
  if (known.length === 0) prune();
}

export function forgetUnsent(user: string, thread: string, id: string): void {
  const known = unsentIn(user, thread);
  if (known.some((one) => one.id === id)) save(user, thread, known.filter((one) => one.id !== id));
}

/** The messages of a stored list that are not too old. */
function kept(value: unknown): readonly Unsent[] {
  const oldest = Date.now() - DAYS * DAY;
  return Array.isArray(value) ? (value as readonly Unsent[]).filter(({ at }) => at > oldest) : NONE;
}

function prune(): void {
  dataOf("unsent")
    .map(({ name }) => ({ name, newest: kept(readStored(local, name)).at(-1)?.at ?? 0 }))
    .sort((a, b) => b.newest - a.newest)
    .forEach(({ name, newest }, index) => {
      if (index >= THREADS || newest === 0) store(local, name, null);
    });
}

function save(user: string, thread: string, list: readonly Unsent[]): void {
  store(local, nameOf(user, thread), list.length === 0 ? null : list);
  for (const run of listeners) run();
}
