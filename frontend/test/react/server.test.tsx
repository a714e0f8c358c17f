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
} from "../../src/react/index.js";

function Page(): ReactNode {
  const { messages, isConnected } = useEnhancedWebSocket();
  const status = useNetra((netra) => netra.status);
  const client = useNetraClient();
  return <p>{`${status} ${messages.length} ${isConnected} ${client.getSnapshot().role}`}</p>;
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
  expect(html).toBe("<p>DISCONNECTED 0 false alone</p>");
  expect(process.getActiveResourcesInfo().filter((name) => name === "Timeout")).toHaveLength(before);
});
