/**
 * The core: without React, and independent of a browser except in `browserPorts`.
 *
 *     import { browserPorts, createClient } from "@netra-trio/client";
 */

export { browserPorts, memoryStorage } from "./browser.js";
export { RequestError } from "./client/api.js";
export type {
  ClientOptions,
  Handler,
  HistoryPage,
  JoinOptions,
  MessageBytes,
  MessageOptions,
  NetraClient,
  OutgoingMessage,
  Subscribe,
  ThreadsPage,
  UploadList,
  WatchOptions,
} from "./client/api.js";
export { createClient } from "./client/client.js";
export type { FileRequest } from "./connection/files.js";
export { isUnderWay } from "./core/uploads.js";
export type {
  FileSource,
  Upload,
  UploadedFile,
  UploadItem,
  UploadOptions,
  UploadProgress,
  UploadRetry,
} from "./core/uploads.js";
export type * from "./ports.js";
export type { ServerConfig } from "./protocol/discovery.js";
export type * from "./protocol/messages.js";
export { roomKey } from "./core/rooms.js";
export type { RoomItem, RoomState, RoomStatus, RoomTarget } from "./core/rooms.js";
export type { ThreadList } from "./core/thread-list.js";
export type { Reply } from "./core/questions.js";
export { isImage } from "./core/attachments.js";
export { partText } from "./core/parts.js";
export { expiresIn, isEnd, isOpen, runOf } from "./core/snapshot.js";
export type * from "./core/snapshot.js";
