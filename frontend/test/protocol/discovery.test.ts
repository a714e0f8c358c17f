import { describe, expect, it } from "vitest";
import { discoveryAddress, readConfig } from "../../src/protocol/discovery.js";

describe("discovery", () => {
  it.each([
    ["https://h", "https://h/ws/config"],
    ["https://h/", "https://h/ws/config"],
    ["wss://h:8/ws", "https://h:8/ws/config"],
    ["ws://h/a/ws/?x#y", "http://h/a/ws/config"],
    ["https://h/ws/config", "https://h/ws/config"],
  ])("for %s is at %s", (url, config) => expect(discoveryAddress(url)).toBe(config));

  it("reports the first fault of the document", () => {
    expect(readConfig("no")).toBe("$: expected JSON");
    expect(readConfig("{}")).toContain("$.websocket_config");
    expect(readConfig('{"websocket_config": {"version": 1}}')).toBe(
      "$.websocket_config.version: expected a string, got 1",
    );
  });
});
