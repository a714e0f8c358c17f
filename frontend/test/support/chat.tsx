/** The chat page in jsdom with a simulated server. Each test mocks `Markdown`, whose packages are the page's own. */

import { act, type ComponentType } from "react";
import { createRoot, type Root } from "react-dom/client";
import { vi } from "vitest";
import { EnhancedWebSocketProvider } from "../../src/react/index.js";
import { Browser, type Tab } from "./browser.js";
import { stubObservers } from "./observers.js";
import { tokenFor } from "./server.js";

export class ChatPage {
  readonly browser: Browser;
  readonly element = document.body.appendChild(document.createElement("div"));
  readonly #root: Root = createRoot(this.element);
  #tab: Tab | null = null;

  constructor(browser = new Browser()) {
    this.browser = browser;
    browser.server.keepsHistory = true;
  }

  /** Shows a thread, in the tab of before if there is one. */
  async show(threadId = "t", user = "alice"): Promise<void> {
    (globalThis as { IS_REACT_ACT_ENVIRONMENT?: boolean }).IS_REACT_ACT_ENVIRONMENT = true;
    stubObservers();
    const source = new URL("../../pages/chat/Chat.tsx", import.meta.url).pathname;
    const { Chat } = (await import(/* @vite-ignore */ source)) as { Chat: ComponentType<Record<string, unknown>> };
    const none = (): void => undefined;
    this.#tab ??= this.browser.tab();
    const { ports } = this.#tab;
    await act(async () =>
      this.#root.render(
        <EnhancedWebSocketProvider getToken={() => tokenFor(user)} ports={ports} threadId={threadId}>
          <Chat user={user} threadId={threadId} onSignOut={none} onSignInAgain={none} />
        </EnhancedWebSocketProvider>,
      ),
    );
    await this.pass();
  }

  async close(): Promise<void> {
    await act(async () => this.#root.unmount());
    this.element.remove();
    vi.unstubAllGlobals();
  }

  pass(ms = 10): Promise<void> {
    return act(async () => this.browser.clock.advance(ms));
  }

  all<T extends HTMLElement = HTMLElement>(selector: string): T[] {
    return [...this.element.querySelectorAll<T>(selector)];
  }

  texts(selector: string): string[] {
    return this.all(selector).map(({ textContent }) => textContent);
  }

  get box(): HTMLTextAreaElement {
    const [box] = this.all<HTMLTextAreaElement>(".composer textarea");
    if (box === undefined) throw new Error("there is no box");
    return box;
  }

  button(name: string): HTMLButtonElement {
    const found = this.all<HTMLButtonElement>("button").filter(
      (button) => (button.getAttribute("aria-label") ?? button.textContent) === name,
    );
    const last = found.at(-1);
    if (last === undefined) throw new Error(`there is no button ${name}`);
    return last;
  }

  has(name: string): boolean {
    return this.all("button").some((button) => (button.getAttribute("aria-label") ?? button.textContent) === name);
  }

  async click(name: string): Promise<void> {
    await act(async () => this.button(name).click());
    await this.pass();
  }

  async type(text: string, area = this.box): Promise<void> {
    await act(async () => {
      const prototype = Object.getPrototypeOf(area) as object;
      Object.getOwnPropertyDescriptor(prototype, "value")?.set?.call(area, text);
      area.dispatchEvent(new Event(area.tagName === "SELECT" ? "change" : "input", { bubbles: true }));
    });
  }

  /** Presses a key; true if its default action is prevented. */
  async press(key: string, init: KeyboardEventInit = {}, target: HTMLElement = this.box): Promise<boolean> {
    const event = new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true, ...init });
    await act(async () => target.dispatchEvent(event));
    await this.pass();
    return event.defaultPrevented;
  }

  async say(text: string): Promise<void> {
    await this.type(text);
    await this.press("Enter");
  }

  /** Sends a message, and answers it. */
  async answered(text: string, answer: string): Promise<string> {
    await this.say(text);
    const { id } = this.browser.server.run;
    await act(async () => {
      this.browser.server.say(id, answer);
      this.browser.server.end(id);
    });
    await this.pass();
    return id;
  }
}

/** A device with these media features. */
export function stubMedia(matches: (query: string) => boolean): void {
  vi.stubGlobal("matchMedia", (query: string) => ({
    matches: matches(query),
    addEventListener: () => undefined,
    removeEventListener: () => undefined,
  }));
}
