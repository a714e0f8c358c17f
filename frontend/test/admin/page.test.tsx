/** The live page with a simulated server: what it shows of the nodes, and its actions. */

import { act, type ComponentType, Profiler } from "react";
import { createRoot, type Root } from "react-dom/client";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import type { JsonObject } from "../../src/index.js";
import { EnhancedWebSocketProvider } from "../../src/react/index.js";
import { Browser } from "../support/browser.js";
import { stubLayers } from "../support/layers.js";
import { nodePart, runPart, sample, sessionPart } from "../support/live.js";

stubLayers();

const ROOM = "admin:live";
const run = runPart("run-1", {
  session_id: "session-1",
  user_id: "alice",
  agent: "shop",
  waits_for: "model",
  waits: 12,
  attempt: 2,
  tools: [{ tool_call_id: "t", name: "search", age: 3 }],
  tools_total: 2,
});
const part = nodePart("node-1", {
  totals: { sessions: 2, attached: 1, detached: 1, running: 1, queued: 0, users: 1 },
  sessions: [sessionPart("session-1", { user_id: "alice", age: 90 }), sessionPart("session-2", { attached: false, window: 30 })],
  runs: [run],
  broker: { state: "unavailable", lag: 4, nodes: 1 },
});

let browser: Browser;
let page: HTMLElement;
let root: Root;
let signIns: unknown[];
let renders: number;

const pass = (ms = 10): Promise<void> => act(async () => browser.clock.advance(ms));
const text = (): string => page.textContent;
const named = (name: string): HTMLElement => {
  const found = [...page.querySelectorAll<HTMLElement>("button, [aria-label]")].find(
    (element) => element.ariaLabel === name || element.textContent === name,
  );
  if (found === undefined) throw new Error(`there is no ${name} in ${text()}`);
  return found;
};
const click = (name: string): Promise<void> => act(async () => named(name).click());
const say = (content: object): Promise<void> =>
  act(async () => {
    const payload = { content: content as JsonObject };
    browser.server.rooms.publish(ROOM, { type: "room_message", payload });
    await browser.clock.advance(10);
  });

async function show(): Promise<void> {
  const source = new URL("../../pages/admin/LivePage.tsx", import.meta.url).pathname;
  const { LivePage } = (await import(/* @vite-ignore */ source)) as { LivePage: ComponentType<Record<string, unknown>> };
  const tab = browser.tab();
  const props = { user: "bob", getToken: () => Promise.resolve("a.token"), onSignInAgain: (why: unknown) => signIns.push(why) };
  await act(async () =>
    root.render(
      <EnhancedWebSocketProvider getToken={tab.getToken} ports={tab.ports} shareAcrossTabs={false}>
        <Profiler id="page" onRender={() => (renders += 1)}>
          <LivePage {...props} />
        </Profiler>
      </EnhancedWebSocketProvider>,
    ),
  );
  await pass();
}

beforeEach(() => {
  (globalThis as { IS_REACT_ACT_ENVIRONMENT?: boolean }).IS_REACT_ACT_ENVIRONMENT = true;
  vi.useFakeTimers({ toFake: ["setInterval", "setTimeout"] });
  browser = new Browser();
  signIns = [];
  page = document.body.appendChild(document.createElement("div"));
  root = createRoot(page);
});

afterEach(async () => {
  await act(async () => root.unmount());
  page.remove();
  vi.useRealTimers();
  vi.restoreAllMocks();
  vi.unstubAllGlobals();
});

it("waits for the first part of a node, and then shows all of it", async () => {
  await show();
  expect(text()).toContain("Waiting for the first figures…");
  await say(part);
  expect(named("Totals").textContent).toContain("Sessions21 detached");
  expect(named("Nodes").textContent).toContain("node-1");
  expect(named("Nodes").textContent).toContain("1 of 100");
  expect(named("Nodes").textContent).toContain("unavailable 4.0 s");
  const sessions = named("Sessions").textContent;
  expect(sessions).toContain("alice");
  expect(sessions).toContain("shopwaits for the model, 12 s");
  expect(sessions).toContain("1 s old · 4 min left · attempt 2");
  expect(sessions).toContain("search 3 s");
  expect(sessions).toContain("and 1 more");
  expect(sessions).not.toContain("session-2");
});

it("lists sessions without a run on request", async () => {
  await show();
  await say(part);
  await act(async () => page.querySelector<HTMLInputElement>("input[type=checkbox]")?.click());
  expect(named("Sessions").textContent).toContain("detached, ends in 30 s");
});

it("forgets a node that has ended", async () => {
  await show();
  await say(part);
  await say(nodePart("node-2"));
  await say({ kind: "gone", node: "node-1", at: 101 });
  expect(named("Nodes").textContent).not.toContain("node-1");
  expect(named("Nodes").textContent).toContain("node-2");
});

it("draws the last hour, with the newest value of each chart", async () => {
  await show();
  const samples = [sample({ at: 80, connections: 3 }), sample({ at: 90, connections: 5, errors: { AGENT_ERROR: 4 } })];
  await say({ kind: "history", node: "node-1", at: 100, interval: 10, samples });
  await say(part);
  expect(named("Active connections: now 5; highest in the last hour 5")).toBeTruthy();
  // Without a single value there is no highest one either.
  expect(named("Error recovery success rate: now –; highest in the last hour –")).toBeTruthy();
  expect(named("Message metrics").textContent).toContain("AGENT_ERROR4");
  expect(named("Totals").textContent).toContain("Errors in a minute4");
  for (const heading of ["Connection metrics", "Message metrics", "Health indicators"]) expect(named(heading)).toBeTruthy();
});

it("renders for what its nodes send, and not by itself", async () => {
  await show();
  await say(part);
  await pass();
  renders = 0;
  await act(async () => vi.advanceTimersByTime(4_000));
  expect(renders).toBe(0);
  const late = Date.now() + 5_001;
  vi.spyOn(Date, "now").mockReturnValue(late);
  await act(async () => vi.advanceTimersByTime(1_100));
  expect(named("Nodes").textContent).not.toContain("node-1");
});

it("says which permission is missing, and offers another sign-in", async () => {
  browser.server.rooms.refusals.set(ROOM, { code: "FORBIDDEN" });
  await show();
  expect(text()).toContain("netra-trio token --user bob --permission netra:admin");
  await click("Sign in with another token");
  expect(signIns).toHaveLength(1);
});

describe("an action", () => {
  const answers: (() => Response | Promise<Response>)[] = [];
  const asked: { path: string; token: string | null }[] = [];

  beforeEach(async () => {
    answers.length = asked.length = 0;
    vi.stubGlobal("fetch", (path: string, init: RequestInit) => {
      asked.push({ path, token: new Headers(init.headers).get("authorization") });
      return Promise.resolve((answers.shift() ?? (() => Response.error()))());
    });
    await show();
    await say(part);
  });

  it.each([
    ["Stop the run run-1", "Stop the run", "runs/run-1/stop"],
    ["End the session session-1", "End the session", "sessions/session-1/end"],
    ["Disable the user alice", "Disable the user", "users/alice/disable"],
    ["Drain node-1", "Drain the node", "nodes/node-1/drain"],
  ])("%s is sent after a confirmation", async (opens, confirms, path) => {
    answers.push(() => Response.json({ status: "accepted", nodes: ["node-1"] }, { status: 202 }));
    await click(opens);
    expect(asked).toEqual([]);
    await click(confirms);
    expect(asked).toEqual([{ path: `/ws/admin/${path}`, token: "Bearer a.token" }]);
    expect(page.querySelector("dialog")).toBeNull();
    expect(named("Actions on this page").textContent).toContain("accepted at node-1");
  });

  it.each([
    ["done", () => Response.json({ status: "stopping" }, { status: 202 }), "Stop the run: run-1 – stopping"],
    ["refused", () => Response.json({ error: "It has ended." }, { status: 404 }), "Stop the run: run-1 – It has ended."],
  ])("that is %s after its dialog was closed is noted, and closes no other dialog", async (_, answer, note) => {
    let respond = (_response: Response): void => undefined;
    answers.push(() => new Promise<Response>((resolve) => (respond = resolve)));
    await click("Stop the run run-1");
    await click("Stop the run");
    await click("Sending…");
    await click("Cancel");
    await click("Drain node-1");
    await act(async () => respond(answer()));
    expect(asked).toHaveLength(1);
    expect(page.querySelector("dialog")?.textContent).toContain("Drain this node?");
    expect(named("Actions on this page").textContent).toContain(note);
  });

  it("is not sent if it is cancelled", async () => {
    await click("Drain node-1");
    await click("Cancel");
    expect(asked).toEqual([]);
    expect(page.querySelector("dialog")).toBeNull();
  });

  it.each<[string, () => Response, string]>([
    ["a refusal", () => Response.json({ code: "RUN_NOT_FOUND", error: "There is no such run.", help: "It has ended." }, { status: 404 }), "There is no such run. It has ended."],
    ["a proxy's page", () => new Response("<html>", { status: 502 }), "The server answered 502."],
    ["no answer", () => { throw new TypeError("failed to fetch"); }, "The server does not answer."],
  ])("shows %s, and can be sent again", async (_, answer, problem) => {
    answers.push(answer, () => Response.json({ status: "stopping" }, { status: 202 }));
    await click("Stop the run run-1");
    await click("Stop the run");
    expect(page.querySelector("dialog [role=alert]")?.textContent).toBe(problem);
    await click("Stop the run");
    expect(asked).toHaveLength(2);
    expect(named("Actions on this page").textContent).toContain("stopping");
  });
});
