/**
 * The React binding.
 *
 *     import { EnhancedWebSocketProvider, useEnhancedWebSocket } from "@netra-trio/client/react";
 */

export {
  EnhancedWebSocketProvider,
  useEnhancedWebSocket,
  useNetraClient,
  type EnhancedWebSocket,
  type EnhancedWebSocketProviderProps,
} from "./provider.js";
