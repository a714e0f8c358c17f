"use client";

/**
 * The React binding.
 *
 *     import { EnhancedWebSocketProvider, useEnhancedWebSocket } from "@netra-trio/client/react";
 */

export type { EnhancedWebSocket } from "./context.js";
export { useFileUrl, useUploads, type FileUrl, type Uploads } from "./files.js";
export { useEnhancedWebSocket, useNetra, useNetraClient } from "./hooks.js";
export { EnhancedWebSocketProvider, type EnhancedWebSocketProviderProps } from "./provider.js";
export {
  useRoom,
  useThread,
  useThreads,
  useWatch,
  type Room,
  type RoomOptions,
  type Thread,
  type Threads,
  type Watch,
} from "./rooms.js";
export { useRun } from "./runs.js";
export { shallowEqual } from "./selection.js";
