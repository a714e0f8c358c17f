/** The chat page with a simulated server: how often it renders, and what it shows of the sign-in. */

import { act, createElement, type ComponentType, type ReactNode } from "react";
import { createRoot, type Root } from "react-dom/client";
import { afterEach, beforeEach, expect, it, vi } from "vitest";
import { EnhancedWebSocketProvider } from "../../src/react/index.js";
import { Browser } from "../support/browser.js";
import { tokenFor } from "../support/server.js";

type Props = Record<string, unknown>;
type Components = Record<string, ComponentType<Props>>;

const { counted, renders } = vi.hoisted(() => {
  const counts: Record<string, number> = {};
  return {
    renders: counts,
    /** A module whose components count how often their parents render them with new props. */
    counted: async (load: () => Promise<unknown>, names: readonly string[]): Promise<Components> => {
      const { memo } = await import("react");
      const module = (await load()) as Components;
      const wrapped = names.map((name) => {
        const Component = module[name];
        if (Component === undefined) throw new Error(`there is no component ${name}`);
        const Counted = (props: Props): ReactNode => {
          counts[name] = (counts[name] ?? 0) + 1;
          return createElement(Component, props);
        };
        return [name, name.endsWith("Message") ? memo(Counted) : Counted] as const;
      });
      return { ...module, ...Object.fromEntries(wrapped) };
    },
  };
});

vi.mock("../../pages/chat/threads/Sidebar.tsx", (load) => counted(load, ["Sidebar"]));
vi.mock("../../pages/chat/composer/Composer.tsx", (load) => counted(load, ["Composer"]));
vi.mock("../../pages/shared/connection/ConnectionState.tsx", (load) => counted(load, ["ConnectionState"]));
vi.mock("../../pages/shared/connection/Banner.tsx", (load) => counted(load, ["Banner"]));
vi.mock("../../pages/chat/messages/MessageList.tsx", (load) => counted(load, ["MessageList"]));
vi.mock("../../pages/chat/messages/UserMessage.tsx", (load) => counted(load, ["UserMessage"]));
vi.mock("../../pages/chat/messages/AgentMessage.tsx", (load) => counted(load, ["AgentMessage"]));
vi.mock("../../pages/chat/markdown/Markdown.tsx", (load) => counted(load, ["Markdown"]));

const browser = new Browser();
let page: HTMLElement;
let root: Root;

beforeEach(async () => {
  (globalThis as { IS_REACT_ACT_ENVIRONMENT?: boolean }).IS_REACT_ACT_ENVIRONMENT = true;
  frames = [];
  vi.stubGlobal("requestAnimationFrame", (show: FrameRequestCallback) => frames.push(show));
  vi.stubGlobal("cancelAnimationFrame", () => (frames = []));
  vi.stubGlobal("ResizeObserver", class {
    observe(): void {}
    disconnect(): void {}
  });
  const source = new URL("../../pages/chat/Chat.tsx", import.meta.url).pathname;
  const { Chat } = (await import(/* @vite-ignore */ source)) as { Chat: ComponentType<Props> };
  const none = (): void => undefined;
  page = document.body.appendChild(document.createElement("div"));
  root = createRoot(page);
  await act(async () =>
    root.render(
      <EnhancedWebSocketProvider getToken={() => getToken()} ports={browser.tab().ports} threadId="t">
        <Chat user="alice" threadId="t" onSignOut={none} onSignInAgain={none} />
      </EnhancedWebSocketProvider>,
    ),
  );
  await act(async () => browser.clock.advance(10));
});

afterEach(async () => {
  await act(async () => root.unmount());
  page.remove();
  getToken = valid;
  vi.unstubAllGlobals();
});

const valid = (): Promise<string> => Promise.resolve(tokenFor("alice"));
let getToken = valid;

/** Text is shown once for each frame of the screen. */
let frames: FrameRequestCallback[] = [];
const frame = async (): Promise<void> => {
  const due = frames;
  frames = [];
  await act(async () => due.forEach((show) => show(0)));
};

it("renders only the text of one message for new words, and once for each frame", async () => {
  const buttons = [...page.querySelectorAll("button")];
  await act(async () => buttons.find(({ textContent }) => textContent === "First")?.click());
  await act(async () => browser.clock.advance(10));
  const { id } = browser.server.run;
  await act(async () => browser.server.say(id, "word"));
  expect(renders["Sidebar"]).toBeGreaterThan(0);
  for (const name of Object.keys(renders)) renders[name] = 0;
  for (let n = 0; n < 20; n += 1) {
    await act(async () => browser.server.say(id, ` ${n},`));
    await act(async () => browser.server.say(id, " and"));
    await frame();
  }
  expect(page.textContent).toContain("word 0, and 1, and 2, and");
  expect(renders).toEqual({
    Sidebar: 0,
    Composer: 0,
    ConnectionState: 0,
    Banner: 0,
    MessageList: 0,
    UserMessage: 0,
    AgentMessage: 0,
    Markdown: 20,
  });
});

it("counts down while the sign-in ends, until the token is renewed", async () => {
  expect(page.textContent).not.toContain("Your sign-in ends");
  let renew: (token: string) => void = () => undefined;
  getToken = () => new Promise((resolve) => (renew = resolve));
  const end = (Date.now() + 30_000 - browser.clock.now) / 1000; // the page's clock is real
  await act(async () => {
    const timestamp = browser.clock.now / 1000;
    browser.server.socket.deliver({ type: "auth_expiring", payload: { expires_at: timestamp + end }, timestamp });
  });
  const notice = (): string => page.querySelector("[role=note]")?.textContent ?? "";
  await act(async () => vi.waitFor(() => expect(notice()).toMatch(/^Your sign-in ends in \d+ s/)));
  await act(async () => renew(tokenFor("alice")));
  await act(async () => browser.clock.advance(10));
  expect(page.querySelector("[role=note]")).toBeNull();
});
