/** The binding in HTML that a server has rendered: the browser takes it over without a difference. */

import { act, lazy, StrictMode, Suspense, type ComponentType, type ReactNode } from "react";
import { hydrateRoot, type Root } from "react-dom/client";
import { renderToString } from "react-dom/server";
import { afterEach, beforeEach, expect, it, vi } from "vitest";
import {
  EnhancedWebSocketProvider,
  shallowEqual,
  useEnhancedWebSocket,
  useNetra,
  useThread,
  useThreads,
} from "../../src/react/index.js";
import { Browser, type Tab } from "../support/browser.js";

let browser: Browser;
let tab: Tab;
let page: HTMLElement;
let root: Root | undefined;

beforeEach(() => {
  (globalThis as { IS_REACT_ACT_ENVIRONMENT?: boolean }).IS_REACT_ACT_ENVIRONMENT = true;
  vi.spyOn(console, "error");
  browser = new Browser();
  tab = browser.tab();
  page = document.body.appendChild(document.createElement("div"));
});

afterEach(async () => {
  await act(async () => root?.unmount());
  page.remove();
  vi.restoreAllMocks();
});

const pass = (ms = 10): Promise<void> => act(async () => browser.clock.advance(ms));

function Page(): ReactNode {
  const { threadId, status } = useEnhancedWebSocket();
  const { messages, status: watch } = useThread(threadId);
  const ids = useNetra((netra) => netra.messages.map(({ id }) => id), shallowEqual);
  const { threads } = useThreads();
  return <p title={threadId}>{`${status} ${watch} ${ids.length} ${messages.length} ${threads.length}`}</p>;
}

function Late(): ReactNode {
  return useNetra(({ status, threadId }) => `${status} ${threadId}`);
}

const app = (where: Tab, Part: ComponentType, threadId?: string): ReactNode => (
  <StrictMode>
    <EnhancedWebSocketProvider getToken={where.getToken} ports={where.ports} threadId={threadId}>
      <Page />
      <Suspense fallback="…">
        <i>
          <Part />
        </i>
      </Suspense>
    </EnhancedWebSocketProvider>
  </StrictMode>
);

/** What React reports: differences that it repairs, and warnings. */
async function hydrate(content: ReactNode): Promise<unknown[]> {
  const reports: unknown[] = [];
  vi.mocked(console.error).mockImplementation((...words) => void reports.push(words));
  await act(async () => {
    root = hydrateRoot(page, content, { onRecoverableError: (error) => void reports.push(error) });
  });
  return reports;
}

it("differs in nothing from the HTML of a server, and then shows the tab's own state", async () => {
  // Another tab: it has other ids, as a server has.
  page.innerHTML = renderToString(app(browser.tab(), Late));
  expect(page.innerHTML).toContain('<p title="">DISCONNECTED joining 0 0 0</p>');
  const paragraph = page.querySelector("p");
  const reports = await hydrate(app(tab, Late));
  await pass();
  expect(reports).toEqual([]);
  expect(page.querySelector("p")).toBe(paragraph);
  expect(paragraph?.title).toMatch(/^id-\d+$/);
  expect(page.textContent).toBe(`CONNECTED joined 0 0 0CONNECTED ${paragraph?.title}`);
});

it("takes over a part that comes when the client is connected", async () => {
  page.innerHTML = renderToString(app(browser.tab(), Late));
  const part = page.querySelector("i");
  let arrive: (module: { default: ComponentType }) => void = () => undefined;
  const arriving = new Promise<{ default: ComponentType }>((resolve) => {
    arrive = resolve;
  });
  const reports = await hydrate(app(tab, lazy(() => arriving)));
  await pass();
  expect(page.textContent).toMatch(/^CONNECTED joined .*DISCONNECTED $/);
  await act(async () => arrive({ default: Late }));
  expect(reports).toEqual([]);
  expect(page.querySelector("i")).toBe(part);
  expect(part?.textContent).toBe(`CONNECTED ${page.querySelector("p")?.title}`);
});

it("renders the thread that the application chose", () => {
  expect(renderToString(app(tab, Late, "chosen"))).toContain('<p title="chosen">');
});
