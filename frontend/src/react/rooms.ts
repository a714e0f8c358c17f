/** The hooks for rooms and threads: each follows its room or list while its component is mounted. */

import { useCallback, useEffect, useState } from "react";
import type { JoinOptions, MessageBytes, WatchOptions } from "../client/api.js";
import { roomKey, viewName, type RoomItem, type RoomState, type RoomStatus, type RoomTarget } from "../core/rooms.js";
import type { ChatMessage, Run } from "../core/snapshot.js";
import type { ControlPayloads, ErrorBody, ListedThread, RoomContent } from "../protocol/messages.js";
import type { EnhancedWebSocket } from "./context.js";
import { useNetra, useNetraClient } from "./hooks.js";
import { shallowEqual } from "./selection.js";

export interface Watch {
  readonly status: RoomStatus;
  /** Why the room was refused, or is not joined yet. */
  readonly error: ErrorBody | null;
}

export interface Room extends Watch {
  /** The newest events, oldest first, and gaps where events are missing. */
  readonly events: readonly RoomItem[];
  /** The users in the room; null without `presence`, and until it is received. */
  readonly members: readonly string[] | null;
  /** Publishes in this room. Rejects with `RequestError`. */
  readonly publish: (content: RoomContent, bytes?: MessageBytes) => Promise<ControlPayloads["room_confirmed"]>;
}

export interface RoomOptions extends JoinOptions {
  /** Follows the users in the room; needs the permission `see`. */
  readonly presence?: boolean | undefined;
}

const NO_EVENTS: readonly RoomItem[] = [];

const stateOf = ({ rooms }: EnhancedWebSocket, key: string): RoomState | undefined => rooms.get(key);
const watchOf = (state: RoomState | undefined): Watch => ({
  status: state?.status ?? "joining",
  error: state?.error ?? null,
});

/** Follows a room. The component renders again with each event of this room. */
export function useRoom(room: string, { history = false, presence = false }: RoomOptions = {}): Room {
  const client = useNetraClient();
  const key = roomKey({ kind: "room", room, history });
  useEffect(() => client.joinRoom(room, { history }), [client, room, history]);
  const { status, error } = useNetra((netra) => watchOf(stateOf(netra, key)), shallowEqual);
  const events = useNetra((netra) => stateOf(netra, key)?.items ?? NO_EVENTS);
  const members = useMembers(room, presence && status === "joined");
  const publish = useCallback((content: RoomContent, bytes?: MessageBytes) => client.publish(room, content, bytes), [client, room]);
  return { status, error, events, members, publish };
}

/** The users in a room, read at each connection and then kept up to date. */
function useMembers(room: string, isFollowed: boolean): readonly string[] | null {
  const client = useNetraClient();
  const connection = useNetra(({ session, isConnected }) => (isConnected ? session?.connection_id : undefined));
  const [known, setKnown] = useState<{ readonly room: string; readonly users: readonly string[] } | null>(null);
  useEffect(() => {
    if (!isFollowed || connection === undefined) return undefined;
    let isCurrent = true;
    const end = client.subscribe("presence_changed", ({ payload: { room: where, user_id, change } }) => {
      if (where !== room) return;
      setKnown((before) => {
        if (before?.room !== room) return before;
        const others = before.users.filter((user) => user !== user_id);
        return { room, users: change === "joined" ? [...others, user_id] : others };
      });
    });
    client.getPresence(room).then(
      ({ members }) => {
        if (isCurrent) setKnown({ room, users: members.map(({ user_id }) => user_id) });
      },
      // Without the permission to see, the members stay unknown.
      () => undefined,
    );
    return () => {
      isCurrent = false;
      end();
    };
  }, [client, room, isFollowed, connection]);
  return isFollowed && known?.room === room ? known.users : null;
}

/**
 * Watches a thread while the component is mounted: `messages` and `runs` of the client then have what
 * other sessions and devices do there. The component itself does not render with each word.
 */
export function useWatch(threadId: string, { owner }: WatchOptions = {}): Watch {
  const client = useNetraClient();
  const key = roomKey(targetOf(threadId, owner));
  useEffect(
    // Empty until the browser has taken over the HTML of a server: see `createHandle`.
    () => (threadId === "" ? undefined : client.watchThread(threadId, { owner })),
    [client, threadId, owner],
  );
  return useNetra((netra) => watchOf(stateOf(netra, key)), shallowEqual);
}

const targetOf = (thread_id: string, owner: string | undefined): RoomTarget & { readonly kind: "thread" } => ({
  kind: "thread",
  thread_id,
  owner: owner ?? null,
});

export interface Thread extends Watch {
  /** The messages of this thread in order, each answer behind its question. */
  readonly messages: readonly ChatMessage[];
  readonly runs: readonly Run[];
  /** Sends a message; `replaces` names a message that it replaces, with all that follows that one. */
  readonly send: (content: string, options?: { readonly replaces?: string }) => Promise<boolean>;
}

/** Watches a thread, and renders its component with each word of this thread. */
export function useThread(threadId: string, options: WatchOptions = {}): Thread {
  const client = useNetraClient();
  const watch = useWatch(threadId, options);
  const name = viewName(targetOf(threadId, options.owner));
  const messages = useNetra((netra) => netra.messages.filter(({ thread_id }) => thread_id === name), shallowEqual);
  const runs = useNetra((netra) => netra.runs.filter(({ thread_id }) => thread_id === name), shallowEqual);
  const send = useCallback<Thread["send"]>(
    (content, { replaces } = {}) => {
      const payload = { content, thread_id: threadId, ...(replaces === undefined ? {} : { replaces }) };
      return client.sendMessage({ type: "user_message", payload });
    },
    [client, threadId],
  );
  return { ...watch, messages, runs, send };
}

export interface Threads {
  /** The newest update first. */
  readonly threads: readonly ListedThread[];
  readonly hasMore: boolean;
  /** False until the server has answered once. */
  readonly isLoaded: boolean;
  readonly error: ErrorBody | null;
  /** Each rejects with `RequestError`. */
  readonly loadMore: () => Promise<void>;
  readonly rename: (threadId: string, title: string) => Promise<void>;
  readonly markRead: (threadId: string, messageId: string) => Promise<void>;
  readonly remove: (threadId: string) => Promise<void>;
}

/** The user's threads, kept up to date. The component renders again when the list changes. */
export function useThreads(): Threads {
  const client = useNetraClient();
  useEffect(() => client.followThreads(), [client]);
  const { threads, hasMore, isLoaded, error } = useNetra((netra) => netra.threads);
  const loadMore = useNetra((netra) => netra.loadMoreThreads);
  const rename = useNetra((netra) => netra.renameThread);
  const markRead = useNetra((netra) => netra.markRead);
  const remove = useNetra((netra) => netra.deleteThread);
  return { threads, hasMore, isLoaded, error, loadMore, rename, markRead, remove };
}
