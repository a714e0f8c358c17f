// @vitest-environment node
/** The binding on a server, where there is no window, no storage and no page. */

import { PassThrough } from "node:stream";
import { text } from "node:stream/consumers";
import type { ReactNode } from "react";
import { renderToPipeableStream, renderToString } from "react-dom/server";
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

const getToken = (): string => expect.unreachable("a server must not ask for a token");
const page = (
  <EnhancedWebSocketProvider url="https://api.example" getToken={getToken}>
    <Page />
  </EnhancedWebSocketProvider>
);
const HTML = "<p>DISCONNECTED 0 false alone joining joining false</p>";
const timers = (): number => process.getActiveResourcesInfo().filter((name) => name === "Timeout").length;

it("renders on a server, and neither asks for a token nor starts a timer", () => {
  expect(typeof window).toBe("undefined");
  const before = timers();
  expect(renderToString(page)).toBe(HTML);
  expect(timers()).toBe(before);
});

it("is rendered into a stream", async () => {
  const stream = new PassThrough();
  await new Promise<void>((resolve, reject) => {
    const { pipe } = renderToPipeableStream(page, { onAllReady: resolve, onShellError: reject, onError: reject });
    pipe(stream);
  });
  expect(await text(stream)).toBe(HTML);
});
