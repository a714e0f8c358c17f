/** The chat page in jsdom, with a simulated server: opens it, and does what a user does. */

import { act, type ComponentType } from "react";
import { createRoot } from "react-dom/client";
import { EnhancedWebSocketProvider } from "../../src/react/index.js";
import type { Browser } from "./browser.js";
import { stubObservers } from "./observers.js";
import { tokenFor } from "./server.js";

export interface ChatPage {
  readonly element: HTMLElement;
  readonly all: (selector: string) => HTMLElement[];
  /** The element with a selector, or the button with an accessible name. */
  readonly find: (name: string) => HTMLElement;
  readonly has: (name: string) => boolean;
  /** Focuses and clicks a button, as a browser does. */
  readonly click: (name: string) => Promise<void>;
  readonly type: (selector: string, text: string) => Promise<void>;
  readonly press: (key: string, more?: KeyboardEventInit) => Promise<void>;
  /** Lets time pass for the client; that of the page passes with the test's fake timers. */
  readonly pass: (ms?: number) => Promise<void>;
  readonly close: () => Promise<void>;
}

export interface PageOptions {
  readonly user?: string;
  readonly threadId?: string;
}

type Page = ComponentType<Record<string, unknown>>;

const nameOf = (element: Element): string => element.getAttribute("aria-label") ?? element.textContent;

/** Opens the page at the thread of the address, as the application does. */
export async function openPage(browser: Browser, { user = "alice" }: PageOptions = {}): Promise<ChatPage> {
  (globalThis as { IS_REACT_ACT_ENVIRONMENT?: boolean }).IS_REACT_ACT_ENVIRONMENT = true;
  stubObservers();
  const load = (path: string): Promise<unknown> => import(/* @vite-ignore */ new URL(path, import.meta.url).pathname);
  const { Chat } = (await load("../../pages/chat/Chat.tsx")) as { Chat: Page };
  const { useThreadId } = (await load("../../pages/chat/threads/useThreadId.ts")) as { useThreadId: () => string };
  const { useFocusKept } = (await load("../../pages/shared/useFocusKept.ts")) as { useFocusKept: (home: string) => void };
  const none = (): void => undefined;
  const { ports } = browser.tab();
  const Opened: ComponentType = () => {
    const threadId = useThreadId();
    useFocusKept(".composer textarea");
    return (
      <EnhancedWebSocketProvider getToken={() => tokenFor(user)} ports={ports} threadId={threadId}>
        <Chat user={user} threadId={threadId} examples={["First"]} onSignOut={none} onSignInAgain={none} />
      </EnhancedWebSocketProvider>
    );
  };
  const element = document.body.appendChild(document.createElement("div"));
  const root = createRoot(element);
  const all = (selector: string): HTMLElement[] => [...element.querySelectorAll<HTMLElement>(selector)];
  const named = (name: string): HTMLElement | undefined =>
    /^[.[#]/.test(name) ? all(name)[0] : all("a, button").find((each) => nameOf(each) === name);
  const find = (name: string): HTMLElement => {
    const found = named(name);
    if (found === undefined) throw new Error(`there is no ${name} in ${element.innerHTML}`);
    return found;
  };
  const pass = (ms = 10): Promise<void> =>
    act(async () => {
      await browser.clock.advance(ms);
    });
  await act(async () => root.render(<Opened />));
  await pass();
  return {
    element,
    all,
    find,
    has: (name) => named(name) !== undefined,
    pass,
    click: async (name) => {
      await act(async () => {
        find(name).focus();
        find(name).click();
      });
      await pass();
    },
    type: async (selector, text) => {
      const input = find(selector) as HTMLInputElement;
      const prototype = Object.getPrototypeOf(input) as object;
      await act(async () => {
        input.focus();
        Object.getOwnPropertyDescriptor(prototype, "value")?.set?.call(input, text);
        input.dispatchEvent(new Event("input", { bubbles: true }));
      });
    },
    press: async (key, more = {}) => {
      const event = new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true, ...more });
      await act(async () => void (document.activeElement ?? document.body).dispatchEvent(event));
      await pass();
    },
    close: async () => {
      await act(async () => root.unmount());
      element.remove();
    },
  };
}
