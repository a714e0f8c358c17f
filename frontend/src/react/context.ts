/** The client of a provider, for the hooks below it. */

import { createContext, useContext } from "react";
import type { NetraClient } from "../client/api.js";
import type { Snapshot } from "../core/snapshot.js";
import { RunListeners } from "./run-listeners.js";

export type Methods = Pick<
  NetraClient,
  | "sendMessage"
  | "checkMessage"
  | "sendOptimisticMessage"
  | "discardMessage"
  | "subscribe"
  | "resend"
  | "stopRun"
  | "answer"
  | "loadThread"
  | "openThread"
  | "watchThread"
  | "joinRoom"
  | "publish"
  | "fileBytes"
  | "getPresence"
  | "followThreads"
  | "loadMoreThreads"
  | "listThreads"
  | "renameThread"
  | "markRead"
  | "deleteThread"
  | "sendFeedback"
  | "uploadFile"
  | "createUploads"
  | "fileRequest"
  | "fileAddress"
  | "clearError"
  | "forceReconnect"
  | "retryNow"
  | "disconnect"
>;

/** The state of the connection, and the methods of the client, which never change. */
export type EnhancedWebSocket = Snapshot & Methods;

export interface ClientHandle {
  readonly client: NetraClient;
  /** The current value: the same object until something changes. */
  readonly read: () => EnhancedWebSocket;
  /** The value of the HTML that a server renders, which never changes: see `createHandle`. */
  readonly readInitial: () => EnhancedWebSocket;
  readonly runs: RunListeners;
}

/**
 * Joins a client that has not connected yet with its methods.
 *
 * The initial value is the same on a server and in a browser, so the browser can take over the HTML of
 * the server, also parts that it takes over when the client is connected already. So it cannot have
 * the id of a thread that the tab itself creates or has stored.
 *
 * @param threadId The thread that the application chose, if it did.
 */
export function createHandle(client: NetraClient, threadId: string | undefined): ClientHandle {
  const methods: Methods = {
    sendMessage: (message) => client.sendMessage(message),
    checkMessage: (message) => client.checkMessage(message),
    sendOptimisticMessage: (content, type, options) => client.sendOptimisticMessage(content, type, options),
    discardMessage: (correlationId) => client.discardMessage(correlationId),
    subscribe: client.subscribe,
    resend: (correlationId) => client.resend(correlationId),
    stopRun: (runId) => client.stopRun(runId),
    answer: (questionId, reply) => client.answer(questionId, reply),
    loadThread: (threadId, page) => client.loadThread(threadId, page),
    openThread: (threadId) => client.openThread(threadId),
    watchThread: (threadId, options) => client.watchThread(threadId, options),
    joinRoom: (room, options) => client.joinRoom(room, options),
    publish: (room, content, bytes) => client.publish(room, content, bytes),
    fileBytes: (fileId) => client.fileBytes(fileId),
    getPresence: (room) => client.getPresence(room),
    followThreads: () => client.followThreads(),
    loadMoreThreads: () => client.loadMoreThreads(),
    listThreads: (page) => client.listThreads(page),
    renameThread: (threadId, title) => client.renameThread(threadId, title),
    markRead: (threadId, messageId) => client.markRead(threadId, messageId),
    deleteThread: (threadId) => client.deleteThread(threadId),
    sendFeedback: (messageId, rating, comment) => client.sendFeedback(messageId, rating, comment),
    uploadFile: (file, options) => client.uploadFile(file, options),
    createUploads: () => client.createUploads(),
    fileRequest: (fileId) => client.fileRequest(fileId),
    fileAddress: (fileId) => client.fileAddress(fileId),
    clearError: () => client.clearError(),
    forceReconnect: () => client.forceReconnect(),
    retryNow: () => client.retryNow(),
    disconnect: () => client.disconnect(),
  };
  let last: { readonly snapshot: Snapshot; readonly value: EnhancedWebSocket } | null = null;
  const read = (): EnhancedWebSocket => {
    const snapshot = client.getSnapshot();
    if (last?.snapshot !== snapshot) {
      // Descriptors, because `messages` and `runs` are composed only if they are read.
      const value = Object.defineProperties({ ...methods }, Object.getOwnPropertyDescriptors(snapshot));
      last = { snapshot, value: value as EnhancedWebSocket };
    }
    return last.value;
  };
  const initial: EnhancedWebSocket = { ...client.getSnapshot(), threadId: threadId ?? "", ...methods };
  return { client, read, readInitial: () => initial, runs: new RunListeners(client) };
}

export const HandleContext = createContext<ClientHandle | null>(null);

export function useHandle(): ClientHandle {
  const handle = useContext(HandleContext);
  if (handle !== null) return handle;
  throw new Error("netra_trio: this hook needs an <EnhancedWebSocketProvider> around its component");
}
