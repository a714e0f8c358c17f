/** How often components render: a delta renders only the message that it belongs to. */

import { act, memo, Profiler, StrictMode, useState, type ReactNode } from "react";
import { createRoot, type Root } from "react-dom/client";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import {
  EnhancedWebSocketProvider,
  shallowEqual,
  useEnhancedWebSocket,
  useNetra,
} from "../../src/react/index.js";
import { partText } from "../../src/index.js";
import { Browser, type Tab } from "../support/browser.js";

let browser: Browser;
let tab: Tab;
let root: Root;
let page: HTMLElement;
let renders: Record<string, number>;

beforeEach(() => {
  (globalThis as { IS_REACT_ACT_ENVIRONMENT?: boolean }).IS_REACT_ACT_ENVIRONMENT = true;
  browser = new Browser();
  tab = browser.tab();
  renders = {};
  page = document.body.appendChild(document.createElement("div"));
  root = createRoot(page);
});

afterEach(async () => {
  await act(async () => root.unmount());
  page.remove();
});

const pass = (ms = 10): Promise<void> => act(async () => browser.clock.advance(ms));
const show = (content: ReactNode): Promise<void> =>
  act(async () =>
    root.render(
      <EnhancedWebSocketProvider getToken={tab.getToken} ports={tab.ports}>
        {content}
      </EnhancedWebSocketProvider>,
    ),
  );

/** Counts the renders of its content, by name. */
const Counted = ({ name, children }: { name: string; children: ReactNode }): ReactNode => (
  <Profiler id={name} onRender={() => void (renders[name] = (renders[name] ?? 0) + 1)}>
    {children}
  </Profiler>
);

function Sidebar(): ReactNode {
  return useNetra(({ threadId }) => threadId);
}

function Status(): ReactNode {
  return useNetra(({ status }) => status);
}

function Composer(): ReactNode {
  const isRunning = useNetra(({ runs }) => runs.some(({ status }) => status === "running"));
  const send = useNetra(({ sendMessage }) => sendMessage);
  const ask = (): void => void send({ type: "user_message", payload: { content: "hello" } });
  return <button onClick={ask}>{isRunning ? "Stop" : "Send"}</button>;
}

const Message = memo(function Message({ id }: { id: string }): ReactNode {
  const content = useNetra(({ messages }) => messages.find((message) => message.id === id)?.content);
  return <p>{content}</p>;
});

function Messages(): ReactNode {
  const ids = useNetra(({ messages }) => messages.map(({ id }) => id), shallowEqual);
  return ids.map((id) => (
    <Counted key={id} name={id}>
      <Message id={id} />
    </Counted>
  ));
}

function Everything(): ReactNode {
  return useEnhancedWebSocket().messages.length;
}

const Chat = (): ReactNode => (
  <>
    <Counted name="sidebar"><Sidebar /></Counted>
    <Counted name="status"><Status /></Counted>
    <Counted name="composer"><Composer /></Counted>
    <Counted name="messages"><Messages /></Counted>
    <Counted name="everything"><Everything /></Counted>
  </>
);

async function ask(): Promise<string> {
  await act(async () => page.querySelector("button")?.click());
  await pass();
  return browser.server.run.id;
}

describe("a delta", () => {
  it("renders its own message, and no other component that selects its part", async () => {
    await show(<Chat />);
    await pass();
    const first = await ask();
    await act(async () => browser.server.end(first));
    const second = await ask();
    await act(async () => browser.server.say(second, "one "));
    renders = {};
    for (let n = 0; n < 20; n += 1) await act(async () => browser.server.say(second, `${n} `));
    // The profiler of the list contains those of the messages, and counts with them.
    expect(renders).toEqual({ [second]: 20, messages: 20, everything: 20 });
    expect(page.textContent).toContain("one 0 1 2");
  });

  it("renders the list itself only if messages are added", async () => {
    let lists = 0;
    function List(): ReactNode {
      const count = useNetra(({ messages }) => messages.map(({ id }) => id), shallowEqual).length;
      return (
        <Profiler id="list" onRender={() => void (lists += 1)}>
          {count}
        </Profiler>
      );
    }
    await show(
      <>
        <List />
        <Composer />
      </>,
    );
    await pass();
    const run = await ask();
    lists = 0;
    for (let n = 0; n < 20; n += 1) await act(async () => browser.server.say(run, "x"));
    expect(lists).toBe(0);
    await ask();
    expect(lists).toBeGreaterThan(0);
    expect(page.textContent).toContain("4");
  });
});

it("shows text and files of an answer in their order, with the bytes that came", async () => {
  function Answer(): ReactNode {
    const answer = useNetra(({ messages }) => messages.find(({ role }) => role === "agent"));
    const read = useNetra(({ fileBytes }) => fileBytes);
    if (answer?.role !== "agent") return null;
    return answer.parts.map((part, index) => {
      if (part.type === "text") return <p key={index}>{partText(answer.content, part)}</p>;
      if (part.type !== "file") return null;
      const file = answer.attachments.find(({ file_id }) => file_id === part.file_id);
      return <img key={index} alt={`${file?.media_type} ${new Uint8Array(read(part.file_id) ?? new ArrayBuffer()).join()}`} />;
    });
  }
  await show(
    <>
      <Answer />
      <Composer />
    </>,
  );
  await pass();
  const run = await ask();
  await act(async () => browser.server.say(run, "before"));
  await act(async () => void browser.server.sayBytes(run, "image/png", Uint8Array.of(1, 2, 255).buffer));
  await act(async () => browser.server.say(run, "after"));
  expect(page.innerHTML).toContain('<p>before</p><img alt="image/png 1,2,255"><p>after</p>');
});

describe("useNetra", () => {
  it("selects with the newest function, and keeps an equal value", async () => {
    const seen: (readonly string[])[] = [];
    function Probe(): ReactNode {
      const [role, setRole] = useState("user");
      const contents = useNetra(
        ({ messages }) => messages.filter((message) => message.role === role).map(({ content }) => content),
        shallowEqual,
      );
      seen.push(contents);
      return <i onClick={() => setRole("agent")}>{contents.join()}</i>;
    }
    await show(
      <>
        <Probe />
        <Composer />
      </>,
    );
    await pass();
    const run = await ask();
    await act(async () => browser.server.say(run, "Hi"));
    expect(page.textContent).toBe("helloStop");
    const choose = (): void => void page.querySelector("i")?.click();
    await act(async () => choose());
    expect(page.textContent).toBe("HiStop");
    const before = seen.at(-1);
    await act(async () => choose());
    await act(async () => browser.server.control(browser.server.socket, "heartbeat", { server_time: 1 }));
    expect(seen.at(-1)).toBe(before);
  });

  it("renders as rarely under StrictMode, and selects nothing once it is unmounted", async () => {
    let selections = 0;
    function Count(): ReactNode {
      const count = useNetra((netra) => {
        selections += 1;
        return netra.messages.length;
      });
      return <u>{count}</u>;
    }
    const both = (isShown: boolean): Promise<void> =>
      show(
        <StrictMode>
          {isShown && <Counted name="count"><Count /></Counted>}
          <Composer />
        </StrictMode>,
      );
    await both(true);
    await pass();
    const run = await ask();
    await act(async () => browser.server.say(run, "x"));
    renders = {};
    for (let n = 0; n < 20; n += 1) await act(async () => browser.server.say(run, "x"));
    expect(renders).toEqual({});
    expect(page.querySelector("u")?.textContent).toBe("2");
    await both(false);
    selections = 0;
    await act(async () => browser.server.say(run, "x"));
    expect(selections).toBe(0);
  });

  it("follows every value that it selects", async () => {
    await show(<Status />);
    expect(page.textContent).toBe("CONNECTING");
    await pass();
    expect(page.textContent).toBe("CONNECTED");
    await act(async () => browser.server.socket.drop(4429));
    expect(page.textContent).toBe("ERROR");
  });
});

describe("shallowEqual", () => {
  it("compares elements and fields by identity", () => {
    const field = {};
    for (const [a, b, expected] of [
      [1, 1, true],
      [NaN, NaN, true],
      [1, 2, false],
      [[], {}, false],
      [null, {}, false],
      [[field, 1], [field, 1], true],
      [[field], [{}], false],
      [[1], [1, 2], false],
      [{ a: field }, { a: field }, true],
      [{ a: undefined }, { b: undefined }, false],
    ] as const) {
      expect(shallowEqual(a, b), JSON.stringify([a, b])).toBe(expected);
    }
  });
});
