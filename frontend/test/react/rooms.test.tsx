/** The hooks for rooms and threads: what they show, and what an event renders. */

import { act, memo, Profiler, StrictMode, useState, type ReactNode } from "react";
import { createRoot, type Root } from "react-dom/client";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { EnhancedWebSocketProvider, useNetra, useRoom, useThread, useThreads, useWatch } from "../../src/react/index.js";
import { shallowEqual } from "../../src/react/index.js";
import { Browser } from "../support/browser.js";
import { contentOf } from "../support/rooms.js";

let browser: Browser;
let root: Root;
let page: HTMLElement;
let renders: Record<string, number>;

beforeEach(() => {
  (globalThis as { IS_REACT_ACT_ENVIRONMENT?: boolean }).IS_REACT_ACT_ENVIRONMENT = true;
  browser = new Browser();
  browser.server.keepsHistory = true;
  renders = {};
  page = document.body.appendChild(document.createElement("div"));
  root = createRoot(page);
});

afterEach(async () => {
  await act(async () => root.unmount());
  page.remove();
});

const pass = (ms = 10): Promise<void> => act(async () => browser.clock.advance(ms));

async function show(content: ReactNode): Promise<void> {
  const tab = browser.tab();
  await act(async () =>
    root.render(
      <StrictMode>
        <EnhancedWebSocketProvider getToken={tab.getToken} ports={tab.ports} threadId="main">
          {content}
        </EnhancedWebSocketProvider>
      </StrictMode>,
    ),
  );
  await pass();
}

const Counted = ({ name, children }: { name: string; children: ReactNode }): ReactNode => (
  <Profiler id={name} onRender={() => void (renders[name] = (renders[name] ?? 0) + 1)}>
    {children}
  </Profiler>
);

const click = (name: string): Promise<void> =>
  act(async () => [...page.querySelectorAll("button")].find(({ textContent }) => textContent === name)?.click());

describe("useRoom", () => {
  function News({ room, presence = false }: { room: string; presence?: boolean }): ReactNode {
    const { status, error, events, members, publish } = useRoom(room, { presence });
    return (
      <p>
        {status} {error?.code}
        {events.map((item) => (item.kind === "gap" ? `(${item.from}-${item.to})` : contentOf(item.payload)))}
        {members?.join("+")}
        <button onClick={() => void publish("hello")}>Publish</button>
      </p>
    );
  }

  it("joins once for all its components, shows events and gaps, publishes, and leaves", async () => {
    const { rooms } = browser.server;
    await show(
      <>
        <News room="news" />
        <News room="news" />
      </>,
    );
    expect(page.textContent).toBe("joined Publishjoined Publish");
    await act(async () => void rooms.say("news", "one"));
    await act(async () => rooms.lose("news", 2));
    await click("Publish");
    await pass();
    expect(page.textContent).toBe("joined one(2-3)helloPublish".repeat(2));
    expect(browser.server.of("join_room")).toHaveLength(1);
    await show(null);
    await pass(2_000);
    expect(rooms.members("news")).toEqual([]);
  });

  it("follows another room, and who is in it", async () => {
    const { rooms } = browser.server;
    rooms.refusals.set("secret", { code: "FORBIDDEN" });
    function Chosen(): ReactNode {
      const [room, setRoom] = useState("secret");
      return (
        <>
          <News room={room} presence />
          <button onClick={() => setRoom("news")}>News</button>
        </>
      );
    }
    await show(<Chosen />);
    expect(page.textContent).toBe("refused FORBIDDENPublishNews");
    await click("News");
    await pass(2_000);
    expect(page.textContent).toBe("joined bobPublishNews");
    const change = (user_id: string, change: string, room = "news"): Promise<void> =>
      act(async () => browser.server.control(browser.server.socket, "presence_changed", { room, user_id, change }));
    await change("carol", "joined");
    await change("dave", "joined", "other");
    expect(page.textContent).toBe("joined bob+carolPublishNews");
    await change("bob", "left");
    expect(page.textContent).toBe("joined carolPublishNews");
    await act(async () => browser.server.socket.drop(1006));
    await pass(5_000);
    expect(page.textContent).toBe("joined bobPublishNews");
  });

  it("leaves the members unknown where they may not be seen", async () => {
    const { rooms } = browser.server;
    const take = rooms.take.bind(rooms);
    rooms.take = (socket, message) =>
      message.type === "get_presence" ? browser.server.error(socket, "FORBIDDEN", message.correlation_id) : take(socket, message);
    await show(<News room="news" presence />);
    await act(async () => browser.server.control(browser.server.socket, "presence_changed", { room: "news", user_id: "x", change: "joined" }));
    expect(page.textContent).toBe("joined Publish");
  });
});

describe("useThread", () => {
  function Thread({ id, name }: { id: string; name: string }): ReactNode {
    return (
      <Counted name={name}>
        <ThreadText id={id} />
      </Counted>
    );
  }
  function ThreadText({ id }: { id: string }): ReactNode {
    const { status, messages, runs, send } = useThread(id);
    const ask = (): void => void send("hello");
    const better = (): void => void send("better", { replaces: messages[0]?.message_id ?? "" });
    return (
      <p>
        {status} {messages.map(({ role, content }) => `${role}: ${content}; `)}
        {runs.map((run) => run.status)}
        <button onClick={ask}>{`Ask ${id}`}</button>
        <button onClick={better}>{`Edit ${id}`}</button>
      </p>
    );
  }

  it("renders the thread that has a new word, and no other", async () => {
    const other = await new Browser(browser).tab().open({ threadId: "main" });
    await show(
      <>
        <Thread id="main" name="main" />
        <Thread id="second" name="second" />
      </>,
    );
    void other.sendMessage({ type: "user_message", payload: { content: "hi" } });
    await pass();
    const { id } = browser.server.run;
    await act(async () => browser.server.say(id, "one"));
    renders = {};
    for (let n = 0; n < 10; n += 1) await act(async () => browser.server.say(id, ` ${n}`));
    expect(renders["main"]).toBe(10);
    expect(renders["second"]).toBeUndefined();
    expect(page.textContent).toContain("joined user: hi; agent: one 0 1 2 3 4 5 6 7 8 9; running");
  });

  it("sends in its thread, and replaces a message", async () => {
    await show(<Thread id="second" name="second" />);
    await click("Ask second");
    await pass();
    expect(browser.server.of("user_message").map(({ payload }) => payload)).toEqual([{ content: "hello", thread_id: "second" }]);
    await act(async () => browser.server.end(browser.server.run.id));
    await click("Edit second");
    await pass();
    await act(async () => browser.server.say(browser.server.run.id, "yes"));
    expect(page.textContent).toContain("joined user: better; agent: yes; running");
  });
});

describe("useWatch", () => {
  it("does not render with each word; a component that selects a message does", async () => {
    const other = await new Browser(browser).tab().open({ threadId: "main" });
    const Message = memo(function Message({ id }: { id: string }): ReactNode {
      return useNetra(({ messages }) => messages.find((message) => message.id === id)?.content);
    });
    function Page(): ReactNode {
      const { status } = useWatch("main");
      const ids = useNetra(({ messages }) => messages.map(({ id }) => id), shallowEqual);
      return (
        <>
          {status}
          {ids.map((id) => (
            <Counted key={id} name={id}>
              <Message id={id} />
            </Counted>
          ))}
        </>
      );
    }
    await show(<Page />);
    void other.sendMessage({ type: "user_message", payload: { content: "hi" } });
    await pass();
    const { id } = browser.server.run;
    await act(async () => browser.server.say(id, "one"));
    renders = {};
    for (let n = 0; n < 10; n += 1) await act(async () => browser.server.say(id, ` ${n}`));
    expect(renders).toEqual({ [id]: 10 });
    expect(page.textContent).toBe("joinedhione 0 1 2 3 4 5 6 7 8 9");
  });
});

describe("useThreads", () => {
  it("shows the list, and changes it; a word renders it not", async () => {
    const { rooms } = browser.server;
    rooms.list("t1");
    await pass();
    rooms.list("t2");
    function List(): ReactNode {
      const { threads, isLoaded, hasMore, error, rename, remove, markRead, loadMore } = useThreads();
      return (
        <>
          {isLoaded && !hasMore && error === null && threads.map(({ title, unread }) => `${title} ${unread}; `)}
          <button onClick={() => void rename("t1", "Lisbon")}>Rename</button>
          <button onClick={() => void markRead("t1", "m")}>Read</button>
          <button onClick={() => void remove("t2")}>Remove</button>
          <button onClick={() => void loadMore()}>More</button>
        </>
      );
    }
    const Ask = (): ReactNode => {
      const send = useNetra(({ sendMessage }) => sendMessage);
      return <button onClick={() => void send({ type: "user_message", payload: { content: "hi" } })}>Ask</button>;
    };
    await show(
      <>
        <Counted name="list">
          <List />
        </Counted>
        <Ask />
      </>,
    );
    expect(page.textContent).toContain("t2 0; t1 0; ");
    await act(async () => {
      rooms.list("t1", { unread: 3 });
      rooms.changed("t1", "updated");
    });
    await click("Rename");
    await click("More");
    await pass();
    expect(page.textContent).toContain("Lisbon 3; t2 0; ");
    await click("Read");
    await click("Remove");
    await pass();
    expect(page.textContent).toMatch(/^Lisbon 0; Rename/);
    await click("Ask");
    await pass(1_000);
    renders = {};
    for (let n = 0; n < 10; n += 1) await act(async () => browser.server.say(browser.server.run.id, "x"));
    expect(renders).toEqual({});
  });
});
