// @vitest-environment node
/** The binding on a server, where there is no window, no storage and no page. */

import type { ReactNode } from "react";
import { renderToString } from "react-dom/server";
import { expect, it } from "vitest";
import {
  EnhancedWebSocketProvider,
  useEnhancedWebSocket,
  useNetra,
  useNetraClient,
  useRoom,
  useThread,
  useThreads,
} from "../../src/react/index.js";

function Page(): ReactNode {
  const { messages, isConnected } = useEnhancedWebSocket();
  const status = useNetra((netra) => netra.status);
  const client = useNetraClient();
  const rest = [useRoom("news").status, useThread("main").status, useThreads().isLoaded].join(" ");
  return <p>{`${status} ${messages.length} ${isConnected} ${client.getSnapshot().role} ${rest}`}</p>;
}

it("renders on a server, and neither asks for a token nor starts a timer", () => {
  expect(typeof window).toBe("undefined");
  const before = process.getActiveResourcesInfo().filter((name) => name === "Timeout").length;
  const getToken = (): string => expect.unreachable("a server must not ask for a token");
  const html = renderToString(
    <EnhancedWebSocketProvider url="https://api.example" getToken={getToken}>
      <Page />
    </EnhancedWebSocketProvider>,
  );
  expect(html).toBe("<p>DISCONNECTED 0 false alone joining joining false</p>");
  expect(process.getActiveResourcesInfo().filter((name) => name === "Timeout")).toHaveLength(before);
});
