/** The state of the connection on the chat page: a long wait can be ended, and errors are plain. */

import { act, type ComponentType } from "react";
import { createRoot, type Root } from "react-dom/client";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import type { ErrorBody } from "../../src/index.js";
import { EnhancedWebSocketProvider } from "../../src/react/index.js";
import { Browser } from "../support/browser.js";
import { DOOR } from "../support/events.js";
import { tokenFor } from "../support/server.js";

type Component = ComponentType<Record<string, unknown>>;
interface Texts {
  readonly explain: (error: ErrorBody) => { text: string; help: string; details: string | null };
}

const load = async <T,>(name: string): Promise<T> =>
  (await import(/* @vite-ignore */ new URL(name, import.meta.url).pathname)) as T;

let browser: Browser;
let page: HTMLElement;
let root: Root;

beforeEach(async () => {
  (globalThis as { IS_REACT_ACT_ENVIRONMENT?: boolean }).IS_REACT_ACT_ENVIRONMENT = true;
  const { ConnectionState } = await load<{ ConnectionState: Component }>("../../pages/shared/connection/ConnectionState.tsx");
  const { ChatBanner } = await load<{ ChatBanner: Component }>("../../pages/chat/ChatBanner.tsx");
  browser = new Browser();
  browser.chance = 0.999;
  page = document.body.appendChild(document.createElement("div"));
  root = createRoot(page);
  const none = (): void => undefined;
  await act(async () =>
    root.render(
      <EnhancedWebSocketProvider getToken={() => tokenFor("alice")} ports={browser.tab().ports} threadId="t">
        <ConnectionState />
        <ChatBanner threadId="t" onSignInAgain={none} />
      </EnhancedWebSocketProvider>,
    ),
  );
  await pass(10);
});

afterEach(async () => {
  await act(async () => root.unmount());
  page.remove();
});

const pass = (ms: number): Promise<void> => act(async () => browser.clock.advance(ms));
const button = (name: string): HTMLButtonElement | undefined =>
  [...page.querySelectorAll("button")].find(({ textContent }) => textContent === name);

describe("after an outage", () => {
  it("a button ends a long wait, causes no storm, and leaves the focus on the state", async () => {
    expect(button("Try now")).toBeUndefined();
    browser.server.isUp = false;
    await act(async () => browser.server.socket.drop(1006));
    expect(page.textContent).toContain("Reconnecting");
    expect(button("Try now")).toBeUndefined(); // the first wait is too short
    await pass(60_000);
    const tryNow = button("Try now");
    expect(tryNow?.getAttribute("aria-disabled")).toBe("false");
    const before = browser.server.requests.length;
    tryNow?.focus();
    for (let n = 0; n < 100; n += 1) {
      await act(async () => tryNow?.click());
      await pass(20);
    }
    expect(browser.server.requests.length - before).toBeGreaterThan(0);
    expect(browser.server.requests.length - before).toBeLessThanOrEqual(1 + 2);
    expect(button("Try now")).toBe(tryNow);
    browser.server.isUp = true;
    await act(async () => tryNow?.click());
    await pass(1_100);
    expect(page.textContent).toContain("Connected");
    expect(button("Try now")).toBeUndefined();
    expect(document.activeElement?.className).toContain("connection");
  });

  it("the button has no effect before the time that the server gave", async () => {
    browser.server.answers = [{ status: 503, retryAfter: "60" }];
    await act(async () => browser.server.socket.drop(1006));
    await pass(2_000);
    expect(button("Try now")?.getAttribute("aria-disabled")).toBe("true");
    const before = browser.server.requests.length;
    await act(async () => button("Try now")?.click());
    await pass(5_000);
    expect(browser.server.requests).toHaveLength(before);
  });
});

it("says if there is no WebSocket, and no longer once there is one", async () => {
  await import("../../src/connection/fallback.js"); // loaded later, in real time
  const said = (): string | null => page.querySelector("[role=status]")?.textContent ?? null;
  expect(said()).toBe("Connected");
  browser.server.doors = DOOR;
  browser.server.refusals = Infinity;
  await act(async () => browser.server.socket.drop(1006));
  await pass(60_000);
  expect(said()).toBe("Connected without WebSocket");
  browser.server.refusals = 0;
  await pass(5 * 60_000);
  await act(async () => browser.server.socket.drop(1012));
  await pass(60_000);
  expect(said()).toBe("Connected");
});

it("explains a refused origin without a word for developers, and keeps the code in the details", async () => {
  const body = { code: "ORIGIN_NOT_ALLOWED", error: "Origin http://a is not allowed.", help: "Add it to WEBSOCKET_ALLOWED_ORIGINS.", timestamp: 1, recoverable: false };
  browser.server.answers = [{ status: 403, body: JSON.stringify(body) }];
  await act(async () => browser.server.socket.drop(1006));
  await pass(2_000);
  const details = page.querySelector("details");
  expect(details?.open).toBe(false);
  expect(details?.textContent).toContain("ORIGIN_NOT_ALLOWED");
  const said = page.querySelector("[role=alert] .said > p")?.textContent;
  expect(said).toBe("This server does not accept connections from this page. Contact its administrator.");
  expect(button("Connect again")).toBeDefined();
});

it.each([
  "AUTH_REQUIRED",
  "BAD_ADDRESS",
  "BAD_ANSWER",
  "BAD_REQUEST",
  "BAD_SERVER_FRAME",
  "DISCOVERY_FAILED",
  "ERROR_LIMIT_EXCEEDED",
  "HTTP_404",
  "INVALID_TOKEN",
  "NO_ANSWER",
  "TOKEN_EXPIRED",
  "TOKEN_UNAVAILABLE",
  "UNSUPPORTED_SUBPROTOCOL",
])("says %s in plain words", async (code) => {
  const { explain } = await load<Texts>("../../pages/shared/errorText.ts");
  const error = { code, error: "$.payload: expected an object", help: "Set WEBSOCKET_X.", timestamp: 1, recoverable: false };
  const { text, help, details } = explain(error);
  expect(`${text} ${help}`).not.toMatch(/[A-Z]{2}|_|\$|token|frame|origin|JSON/);
  expect(details).toBe(`${code}: ${error.error} ${error.help}`);
});
