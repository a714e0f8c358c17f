/** Questions and approvals on the chat page, with a simulated server. */

import { act, type ComponentType } from "react";
import { createRoot, type Root } from "react-dom/client";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { EnhancedWebSocketProvider } from "../../src/react/index.js";
import { Browser } from "../support/browser.js";
import { tokenFor } from "../support/server.js";


let browser: Browser;
let page: HTMLElement;
let root: Root;
let run: string;

const pass = (ms = 10): Promise<void> => act(async () => browser.clock.advance(ms));
const all = (selector: string): HTMLElement[] => [...page.querySelectorAll<HTMLElement>(selector)];
const card = (): HTMLElement => page.querySelector<HTMLElement>("section.question") ?? document.createElement("div");
const button = (name: string): HTMLButtonElement => {
  const found = all("button").find(({ textContent }) => textContent === name);
  if (found === undefined) throw new Error(`there is no button ${name}`);
  return found as HTMLButtonElement;
};
const click = async (name: string): Promise<void> => {
  await act(async () => button(name).click());
  await pass();
};
/** Types into the input with a label. */
async function type(label: string, text: string): Promise<void> {
  const of = all("label").find(({ textContent }) => textContent === label) as HTMLLabelElement;
  const input = of.control as HTMLInputElement;
  const prototype = Object.getPrototypeOf(input) as object;
  await act(async () => {
    if (input.type === "radio") {
      input.click();
      return;
    }
    Object.getOwnPropertyDescriptor(prototype, "value")?.set?.call(input, text);
    input.dispatchEvent(new Event(input.tagName === "SELECT" ? "change" : "input", { bubbles: true }));
  });
}
async function ask(question: Parameters<Browser["server"]["ask"]>[1] = {}): Promise<string> {
  let id = "";
  await act(async () => {
    id = browser.server.ask(run, { expires_at: Date.now() / 1000 + 90, ...question });
  });
  await pass();
  return id;
}
const sent = (): unknown[] => browser.server.of("answer").map(({ payload: { question_id: _, ...reply } }) => reply);

beforeEach(async () => {
  (globalThis as { IS_REACT_ACT_ENVIRONMENT?: boolean }).IS_REACT_ACT_ENVIRONMENT = true;
  vi.stubGlobal("ResizeObserver", class {
    observe(): void {}
    disconnect(): void {}
  });
  const source = new URL("../../pages/chat/Chat.tsx", import.meta.url).pathname;
  const { Chat } = (await import(/* @vite-ignore */ source)) as { Chat: ComponentType<Record<string, unknown>> };
  const none = (): void => undefined;
  browser = new Browser();
  page = document.body.appendChild(document.createElement("div"));
  root = createRoot(page);
  const { ports } = browser.tab();
  await act(async () =>
    root.render(
      <EnhancedWebSocketProvider getToken={() => tokenFor("alice")} ports={ports} threadId="t">
        <Chat user="alice" threadId="t" onSignOut={none} onSignInAgain={none} />
      </EnhancedWebSocketProvider>,
    ),
  );
  await pass();
  await click("First");
  run = browser.server.run.id;
});

afterEach(async () => {
  await act(async () => root.unmount());
  page.remove();
  vi.unstubAllGlobals();
});

const APPROVAL = { prompt: "Delete it?", tool_name: "delete", arguments: { path: "/tmp/a" } };

it("does not submit an answer with the Enter of an input method", async () => {
  await ask({ kind: "question", prompt: "Name?", schema: { type: "object", properties: { name: { type: "string" } }, required: ["name"] } });
  const input = card().querySelector("input");
  const enter = (init: object): boolean =>
    input?.dispatchEvent(new KeyboardEvent("keydown", { key: "Enter", bubbles: true, cancelable: true, ...init })) ?? false;
  // A prevented Enter submits nothing.
  expect([enter({ keyCode: 229 }), enter({ isComposing: true }), enter({ keyCode: 13 })]).toEqual([false, false, true]);
});

describe("an approval", () => {
  it("shows the tool with its arguments and the time that is left, and is named for screen readers", async () => {
    await ask(APPROVAL);
    expect(card().textContent).toContain("delete");
    expect(card().querySelector("pre")?.textContent).toBe('{\n  "path": "/tmp/a"\n}');
    expect(card().querySelector("[aria-hidden=true]:not(svg)")?.textContent).toMatch(/^Expires in 1 min (29|30) s$/);
    expect(card().querySelector(".only-read")?.textContent).toMatch(/^Expires at /);
    const names = card().getAttribute("aria-labelledby")?.split(" ").map((id) => document.getElementById(id)?.textContent);
    expect([card().getAttribute("role"), names]).toEqual(["group", ["Approval needed", "Delete it?"]]);
    // Screen readers do not read a busy message.
    expect(page.querySelector("article.agent")?.getAttribute("aria-busy")).toBe("false");
    expect(page.querySelector("[role=log]")?.contains(card())).toBe(true);
  });

  it.each([
    ["Approve", true, "approved"],
    ["Deny", false, "denied"],
  ])("%s", async (name, approve, outcome) => {
    await ask(APPROVAL);
    await click(name);
    expect(sent()).toEqual([{ approve }]);
    expect(all("section.question")).toEqual([]);
    const [line] = all("[aria-label=Questions] li");
    expect(line?.querySelector("summary")?.textContent).toBe(`delete${outcome}`);
    expect(line?.textContent).toContain("Delete it?");
    expect(page.querySelector("article.agent")?.getAttribute("aria-busy")).toBe("true");
  });

  it.each([
    ["expired", "expired, so denied"],
    ["cancelled", "cancelled with its run"],
    ["unknown", "closed"],
    ["delegated", "delegated"],
  ])("that is %s", async (outcome, text) => {
    const id = await ask(APPROVAL);
    await act(async () => void browser.server.close(id, outcome));
    expect(page.querySelector("[aria-label=Questions] .tool-state")?.textContent).toBe(text);
  });

  it("shows that another answer was first, and its outcome", async () => {
    const id = await ask(APPROVAL);
    browser.server.rejection = { code: "ANSWER_REJECTED" };
    await click("Approve");
    expect(card().querySelector("[role=alert]")?.textContent).toBe("This is ANSWER_REJECTED. Help.");
    expect(page.querySelector(".banner")).toBeNull();
    await act(async () => void browser.server.close(id, "denied"));
    expect(page.querySelector("[aria-label=Questions] .tool-state")?.textContent).toBe("denied");
    expect(page.querySelector("[aria-label=Questions] [role=alert]")?.textContent).toBe(
      "Your answer was not accepted. This is ANSWER_REJECTED.",
    );
  });

  it("is answered once, however often its buttons are pressed, and says what it waits for", async () => {
    await ask(APPROVAL);
    browser.server.isMute = true;
    await click("Approve");
    await click("Approve");
    await click("Deny");
    expect(sent()).toEqual([{ approve: true }]);
    expect(button("Deny").getAttribute("aria-disabled")).toBe("true");
    expect(card().textContent).toContain("Sending…");
    await act(async () => browser.server.socket.drop(1006));
    expect(card().textContent).toContain("Waiting for the connection");
    browser.server.isMute = false;
    await pass(1_000);
    expect(page.querySelector("[aria-label=Questions] .tool-state")?.textContent).toBe("approved");
  });

  it("says that its time is over", async () => {
    await ask({ ...APPROVAL, expires_at: Date.now() / 1000 - 1 });
    expect(card().textContent).toContain("The time to answer is over");
  });
});

describe("the focus", () => {
  it("stays in the message box when an agent asks, and when it stops asking", async () => {
    const box = page.querySelector<HTMLElement>(".composer textarea");
    box?.focus();
    const id = await ask(APPROVAL);
    expect(document.activeElement).toBe(box);
    await act(async () => void browser.server.close(id, "expired"));
    expect(document.activeElement).toBe(box);
  });

  it("moves from an answered card to its line", async () => {
    await ask(APPROVAL);
    button("Approve").focus();
    await click("Approve");
    expect(document.activeElement).toBe(page.querySelector("[aria-label=Questions] summary"));
  });

  it("moves to the first wrong field", async () => {
    await ask({ kind: "question", schema: { type: "object", required: ["a", "b"], properties: { a: { enum: [1] }, b: { type: "integer" } } } });
    await click("Answer");
    expect(document.activeElement).toBe(card().querySelector("input[type=radio]"));
  });

  it("moves to the wrong field also past fields named like members of every object, which are not marked", async () => {
    const properties = { constructor: { type: "string", format: "toString" }, valueOf: { type: "string" }, size: { type: "integer" } };
    await ask({ kind: "question", schema: { type: "object", required: ["size"], properties } });
    await click("Answer");
    const inputs = [...card().querySelectorAll("input")];
    expect(document.activeElement).toBe(inputs[2]);
    expect(inputs.map((input) => input.getAttribute("aria-invalid"))).toEqual(["false", "false", "true"]);
    expect(inputs[0]?.getAttribute("type")).toBe("text");
    await type("constructor (optional)", "a");
    await type("size", "2");
    await click("Answer");
    expect(sent()).toEqual([{ answer: { constructor: "a", size: 2 } }]);
  });

  it("Escape in a card does not stop the run", async () => {
    await ask(APPROVAL);
    const press = (element: HTMLElement): Promise<void> =>
      act(async () => void element.dispatchEvent(new KeyboardEvent("keydown", { key: "Escape", bubbles: true, cancelable: true })));
    await press(button("Deny"));
    await pass();
    expect(browser.server.of("stop_agent")).toEqual([]);
    await press(document.body);
    await pass();
    expect(browser.server.of("stop_agent")).toHaveLength(1);
    expect(page.querySelector("[aria-label=Questions] .tool-state")?.textContent).toBe("cancelled with its run");
  });
});

describe("a question", () => {
  it("without a schema takes a text", async () => {
    await ask({ kind: "question", prompt: "Which one?" });
    await type("Answer", "The first");
    await click("Answer");
    expect(sent()).toEqual([{ answer: "The first" }]);
    expect(page.querySelector("[aria-label=Questions] li")?.textContent).toContain("The first");
  });

  it("has an input for each property, and sends them with their types", async () => {
    const more = { type: "string", enum: ["a", "b", "c", "d", "e"] };
    const properties = {
      count: { type: "integer", title: "How many?", description: "From 1 to 9.", minimum: 1 },
      price: { type: "number" },
      urgent: { type: "boolean" },
      size: { enum: ["S", "M"] },
      more,
      mail: { type: "string", format: "email" },
      text: { type: "string", maxLength: 500 },
      tags: { type: "array" },
    };
    await ask({ kind: "question", schema: { type: "object", required: ["count", "urgent", "size", "more"], properties } });
    expect(card().querySelectorAll("fieldset")).toHaveLength(2);
    expect(card().querySelector("input[type=email]")).not.toBeNull();
    await click("Answer");
    const count = card().querySelector("input");
    expect(count?.getAttribute("aria-invalid")).toBe("true");
    const described = count?.getAttribute("aria-describedby")?.split(" ").map((id) => document.getElementById(id)?.textContent);
    expect(described).toEqual(["From 1 to 9.", "Fill this in."]);
    expect(sent()).toEqual([]);
    await type("How many?", "3");
    await type("price (optional)", "1.5");
    await type("Yes", "");
    await type("M", "");
    await type("more", "4");
    await type("tags (optional)", '["x"]');
    await click("Answer");
    expect(sent()).toEqual([{ answer: { count: 3, price: 1.5, urgent: true, size: "M", more: "e", tags: ["x"] } }]);
  });

  it("keeps what was typed while other questions come and go, and after a rejection", async () => {
    await ask({ kind: "question", schema: { type: "integer" } });
    await type("Answer", "12");
    const other = await ask(APPROVAL);
    await act(async () => void browser.server.close(other, "expired"));
    browser.server.rejection = { code: "ANSWER_REJECTED" };
    await click("Answer");
    expect(card().querySelector("input")?.value).toBe("12");
    browser.server.rejection = null;
    await click("Answer");
    expect(sent()).toEqual([{ answer: 12 }, { answer: 12 }]);
    expect(all("section.question")).toEqual([]);
  });
});

it("shows the tokens of a run", async () => {
  const used = (model: string, cost?: number): Promise<void> =>
    act(async () =>
      browser.server.event(run, "agent_usage", { model, input_tokens: 1200, output_tokens: 34, ...(cost === undefined ? {} : { cost }) }),
    );
  const header = (): HTMLElement | undefined => all("article.agent > header .note").find(({ title }) => title !== "");
  expect(header()).toBeUndefined();
  await used("small");
  expect(header()?.textContent).toBe("1,234 tokens");
  await used("large", 0.5);
  expect(header()?.textContent).toBe("2,468 tokens");
  expect(header()?.title).toBe("small: 1,200 in, 34 out; large: 1,200 in, 34 out, cost 0.5");
});
