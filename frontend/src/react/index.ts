"use client";

/**
 * The React binding.
 *
 *     import { EnhancedWebSocketProvider, useEnhancedWebSocket } from "@netra-trio/client/react";
 */

export type { EnhancedWebSocket } from "./context.js";
export { useEnhancedWebSocket, useNetra, useNetraClient } from "./hooks.js";
export { EnhancedWebSocketProvider, type EnhancedWebSocketProviderProps } from "./provider.js";
export { shallowEqual } from "./selection.js";
