/** Questions through the hooks: what a component selects of them, and its answers. */

import { act, Profiler, type ReactNode } from "react";
import { createRoot, type Root } from "react-dom/client";
import { afterEach, beforeEach, expect, it } from "vitest";
import { isOpen } from "../../src/index.js";
import { EnhancedWebSocketProvider, shallowEqual, useEnhancedWebSocket, useNetra } from "../../src/react/index.js";
import { Browser } from "../support/browser.js";
import { hello } from "../support/connected.js";

let browser: Browser;
let root: Root;
let page: HTMLElement;
let renders: number;

const pass = (ms = 10): Promise<void> => act(async () => browser.clock.advance(ms));

function Questions(): ReactNode {
  const open = useNetra(({ runs }) => runs.flatMap(({ questions }) => questions.filter(isOpen)), shallowEqual);
  const answer = useNetra((netra) => netra.answer);
  return open.map(({ question_id, prompt }) => (
    <button key={question_id} onClick={() => void answer(question_id, { approve: true })}>
      {prompt}
    </button>
  ));
}

function Outcomes(): ReactNode {
  const { runs, sendMessage } = useEnhancedWebSocket();
  const outcomes = runs.flatMap(({ questions }) => questions.map(({ outcome }) => outcome ?? "open"));
  return <output onClick={() => void sendMessage(hello)}>{outcomes.join()}</output>;
}

beforeEach(async () => {
  (globalThis as { IS_REACT_ACT_ENVIRONMENT?: boolean }).IS_REACT_ACT_ENVIRONMENT = true;
  browser = new Browser();
  const tab = browser.tab();
  renders = 0;
  page = document.body.appendChild(document.createElement("div"));
  root = createRoot(page);
  await act(async () =>
    root.render(
      <EnhancedWebSocketProvider getToken={tab.getToken} ports={tab.ports}>
        <Profiler id="questions" onRender={() => void (renders += 1)}>
          <Questions />
        </Profiler>
        <Outcomes />
      </EnhancedWebSocketProvider>,
    ),
  );
  await pass();
  await act(async () => page.querySelector("output")?.click());
  await pass();
});

afterEach(async () => {
  await act(async () => root.unmount());
  page.remove();
});

it("a component shows the open questions, answers one, and renders only when they change", async () => {
  const { id } = browser.server.run;
  await act(async () => void browser.server.ask(id, { prompt: "First?" }));
  await act(async () => void browser.server.ask(id, { prompt: "Second?" }));
  expect(page.textContent).toBe("First?Second?open,open");
  renders = 0;
  for (let n = 0; n < 10; n += 1) await act(async () => browser.server.say(id, `${n}`));
  expect(renders).toBe(0);
  await act(async () => page.querySelector("button")?.click());
  await pass();
  expect(page.textContent).toBe("Second?approved,open");
  expect(renders).toBe(1);
});
