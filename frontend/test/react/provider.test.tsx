/** The binding with real React and jsdom, with React 18 and with React 19. */

import { act, StrictMode, useEffect, useState, version, type ReactNode } from "react";
import { createRoot, type Root } from "react-dom/client";
import { renderToString } from "react-dom/server";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import {
  EnhancedWebSocketProvider,
  useEnhancedWebSocket,
  useNetraClient,
  type EnhancedWebSocket,
} from "../../src/react/index.js";
import { Browser, type Tab } from "../support/browser.js";

let browser: Browser;
let tab: Tab;
let root: Root;
let page: HTMLElement;

beforeEach(() => {
  (globalThis as { IS_REACT_ACT_ENVIRONMENT?: boolean }).IS_REACT_ACT_ENVIRONMENT = true;
  browser = new Browser();
  tab = browser.tab();
  page = document.body.appendChild(document.createElement("div"));
  root = createRoot(page);
});

afterEach(async () => {
  await act(async () => root.unmount());
  page.remove();
});

const show = (what: ReactNode): Promise<void> => act(async () => root.render(what));
const pass = (ms = 10): Promise<void> => act(async () => browser.clock.advance(ms));
/** The delay before an unused client disconnects is in real time. */
const linger = (): Promise<void> => act(async () => void (await new Promise((done) => setTimeout(done, 1_100))));

let seen: EnhancedWebSocket;
const record = (socket: EnhancedWebSocket): void => void (seen = socket);

function Probe(): ReactNode {
  const socket = useEnhancedWebSocket();
  record(socket);
  return <output>{socket.status}</output>;
}

type Props = Partial<Parameters<typeof EnhancedWebSocketProvider>[0]>;
const App = (props: Props): ReactNode => (
  <EnhancedWebSocketProvider getToken={tab.getToken} ports={tab.ports} {...props}>
    {props.children ?? <Probe />}
  </EnhancedWebSocketProvider>
);

it("runs with the version of React that its project names", ({ task }) => {
  expect(task.file.projectName).toBe(`react-${version.split(".")[0]}`);
});

/** The component of the guide, unchanged. */
function ChatComponent(): ReactNode {
  const { status, sendMessage, sendOptimisticMessage, isConnected, connectionStats } = useEnhancedWebSocket();

  const handleSendMessage = async (content: string): Promise<void> => {
    // Send optimistic message for immediate UI update
    const correlationId = sendOptimisticMessage(content);

    // Send actual message
    const success = await sendMessage({
      type: "user_message",
      payload: { content, correlation_id: correlationId },
    });
    page.dataset["success"] = String(success);
  };

  return (
    <div>
      <div>Status: {status}</div>
      <div>Messages sent: {connectionStats.messages_sent}</div>
      <button disabled={!isConnected} onClick={() => void handleSendMessage("hello")} />
    </div>
  );
}

it("runs the guide's component: the message is shown once and sent once", async () => {
  const wsConfig = { autoConnect: true, maxReconnectAttempts: 5, reconnectInterval: 1000 };
  await show(
    <App {...wsConfig}>
      <ChatComponent />
      <Probe />
    </App>,
  );
  await pass();
  expect(page.textContent).toContain("Status: CONNECTED");
  await act(async () => page.querySelector("button")?.click());
  await pass();
  expect(page.dataset["success"]).toBe("true");
  expect(browser.server.contents).toEqual(["hello"]);
  expect(seen.messages).toMatchObject([{ content: "hello", status: "confirmed" }, { role: "agent" }]);
  expect(page.textContent).toContain("Messages sent: 1");
});

describe("one socket serves", () => {
  it("many components under StrictMode", async () => {
    const many = Array.from({ length: 20 }, (_, n) => <Probe key={n} />);
    await show(
      <StrictMode>
        <App>{many}</App>
      </StrictMode>,
    );
    await pass();
    await linger();
    await pass(5_000);
    expect(browser.server.sockets).toHaveLength(1);
    expect(browser.server.requests).toHaveLength(2);
    expect(seen.isConnected).toBe(true);
  });

  it("re-renders with new functions and new objects", async () => {
    for (let n = 0; n < 50; n += 1) await show(<App getToken={() => tab.getToken()} autoConnect />);
    await pass();
    for (let n = 0; n < 50; n += 1) await show(<App getToken={() => tab.getToken()} autoConnect />);
    await pass(5_000);
    expect(browser.server.sockets).toHaveLength(1);
  });

  it("a remount in time; after a longer time the client disconnects", async () => {
    await show(<App />);
    await pass();
    await show(null);
    await linger();
    await pass(2_000);
    expect(browser.server.open).toHaveLength(0);
    expect(browser.clock.waiting).toBe(0);
    await show(<App />);
    await pass();
    expect(browser.server.open).toHaveLength(1);
    expect(seen.messages).toEqual([]);
  });

  it("two providers of one page", async () => {
    await show([<App key="1" />, <App key="2" />]);
    await pass(1_000);
    expect(browser.server.open).toHaveLength(1);
    expect(page.textContent).toBe("CONNECTEDCONNECTED");
  });

  it("a component that its parent hides and shows", async () => {
    function Toggle(): ReactNode {
      const [isOpen, setOpen] = useState(true);
      return (
        <>
          <button onClick={() => setOpen(!isOpen)} />
          {isOpen && <Probe />}
        </>
      );
    }
    await show(
      <App>
        <Toggle />
      </App>,
    );
    await pass();
    for (let n = 0; n < 11; n += 1) await act(async () => page.querySelector("button")?.click());
    expect(browser.server.sockets).toHaveLength(1);
  });
});

describe("props", () => {
  it("use the newest getToken", async () => {
    let newest = 0;
    await show(<App />);
    await pass();
    await show(
      <App
        getToken={() => {
          newest += 1;
          return tab.getToken();
        }}
      />,
    );
    await act(async () => browser.server.socket.drop(1006));
    await pass(1_000);
    expect(newest).toBe(1);
  });

  it("connect to another server when the url changes", async () => {
    await show(<App url="wss://one.example/ws" />);
    await pass();
    await show(<App url="wss://two.example/ws" />);
    await pass();
    expect(browser.server.open.map(({ url }) => new URL(url).host)).toEqual(["one.example", "two.example"]);
    await linger();
    expect(browser.server.open.map(({ url }) => new URL(url).host)).toEqual(["two.example"]);
    expect(seen.isConnected).toBe(true);
  });

  it("open another thread without another connection", async () => {
    await show(<App threadId="a" />);
    await pass();
    await show(<App threadId="b" />);
    await pass();
    await act(async () => void seen.sendMessage({ type: "user_message", payload: { content: "x" } }));
    expect(browser.server.of("user_message")[0]?.payload.thread_id).toBe("b");
    expect(browser.server.sockets).toHaveLength(1);
  });

  it("limit the attempts and the delays", async () => {
    browser.server.isUp = false;
    browser.chance = 0.999;
    await show(<App maxReconnectAttempts={2} reconnectInterval={400} />);
    await pass();
    expect(seen).toMatchObject({ status: "RECONNECTING", isReconnecting: true, retry: { attempt: 1, delay_ms: 399 } });
    await pass(60_000);
    expect(seen).toMatchObject({ status: "ERROR", lastError: { code: "RETRIES_EXHAUSTED" } });
    expect(browser.server.requests).toHaveLength(3);
  });

  it("wait for forceReconnect with autoConnect={false}", async () => {
    await show(<App autoConnect={false} />);
    await pass(5_000);
    expect(seen.status).toBe("DISCONNECTED");
    expect(browser.server.requests).toEqual([]);
    await act(async () => seen.forceReconnect());
    await pass();
    expect(seen.status).toBe("CONNECTED");
  });
});

describe("the hook", () => {
  it("streams, delivers events, stops runs and clears errors", async () => {
    const pieces: string[] = [];
    function Listener(): ReactNode {
      const { subscribe } = useEnhancedWebSocket();
      useEffect(() => subscribe("partial_result", ({ payload }) => pieces.push(payload.content)), [subscribe]);
      return null;
    }
    await show(
      <App>
        <Probe />
        <Listener />
      </App>,
    );
    await pass();
    await act(async () => void seen.sendMessage({ type: "user_message", payload: { content: "x" } }));
    const { id } = browser.server.run;
    await act(async () => browser.server.say(id, "Hel"));
    await act(async () => browser.server.say(id, "lo"));
    expect(seen.runs).toMatchObject([{ text: "Hello", status: "running" }]);
    expect(pieces).toEqual(["Hel", "lo"]);
    await act(async () => void (await seen.stopRun(id)));
    expect(seen.runs).toMatchObject([{ status: "cancelled" }]);
    await act(async () => void (await seen.sendMessage({ type: "user_message", payload: { content: "" } })));
    expect(seen.lastError?.code).toBe("VALIDATION_ERROR");
    await act(async () => seen.clearError());
    expect(seen.lastError).toBeNull();
  });

  it("has every documented field and function", async () => {
    await show(<App />);
    await pass();
    const names = "status config connectionStats lastError isConnected isReconnecting messages";
    const functions = "sendMessage sendOptimisticMessage subscribe stopRun clearError forceReconnect";
    for (const name of names.split(" ")) expect(seen).toHaveProperty(name);
    for (const name of functions.split(" ")) expect(seen).toHaveProperty(name, expect.any(Function));
    const figures = "connected_at last_activity messages_sent messages_received errors_encountered reconnections connection_id queued";
    for (const name of figures.split(" ")) expect(seen.connectionStats).toHaveProperty(name);
  });

  it("has functions that never change", async () => {
    await show(<App />);
    const before = seen;
    await pass();
    expect(seen).not.toBe(before);
    for (const name of ["sendMessage", "sendOptimisticMessage", "subscribe", "stopRun", "clearError", "forceReconnect"] as const) {
      expect(seen[name]).toBe(before[name]);
    }
  });

  it("renders on a server", () => {
    expect(renderToString(<App />)).toContain("DISCONNECTED");
    expect(browser.server.requests).toEqual([]);
  });

  it("reports a missing provider", async () => {
    function Lost(): ReactNode {
      try {
        useNetraClient();
      } catch (error) {
        return String(error);
      }
      return null;
    }
    await show(<Lost />);
    expect(page.textContent).toContain("EnhancedWebSocketProvider");
  });
});
