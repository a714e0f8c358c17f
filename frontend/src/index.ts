/**
 * The core: no React, and no browser but in `browserPorts`.
 *
 *     import { browserPorts, createClient } from "@netra-trio/client";
 */

export { browserPorts, memoryStorage } from "./browser.js";
export { RequestError } from "./client/api.js";
export type { ClientOptions, Handler, NetraClient, OutgoingMessage, Subscribe } from "./client/api.js";
export { createClient } from "./client/client.js";
export type * from "./ports.js";
export type * from "./protocol/messages.js";
export { isEnd } from "./core/snapshot.js";
export type * from "./core/snapshot.js";
