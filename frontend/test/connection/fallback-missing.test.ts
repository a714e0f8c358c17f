/** A page whose code for connections without a WebSocket cannot be loaded. */

import { expect, it, vi } from "vitest";
import { Browser } from "../support/browser.js";
import { DOOR } from "../support/events.js";

vi.mock("../../src/connection/fallback.js", () => {
  throw new Error("not found");
});

it("tries again with its back-off, and uses the WebSocket once that works", async () => {
  const browser = new Browser();
  browser.server.doors = DOOR;
  browser.server.refusals = 2;
  browser.chance = 0;
  const client = await browser.tab().open();
  await vi.waitFor(async () => {
    await browser.clock.advance(100);
    expect(client.getSnapshot().lastError?.error).toBe("A part of the page is missing.");
  });
  expect(client.getSnapshot()).toMatchObject({ status: "RECONNECTING", lastError: { recoverable: true } });
  const { length } = browser.server.requests;
  await browser.clock.advance(60_000);
  expect(browser.server.requests.length - length).toBeLessThan(300);
  await vi.waitFor(async () => {
    await browser.clock.advance(300_000);
    expect(client.getSnapshot().connectionStats.transport).toBe("websocket");
  });
});
