/** One tab that is connected, for tests that begin there. */

import type { NetraClient } from "../../src/index.js";
import { Browser, type Tab } from "./browser.js";

export const hello = { type: "user_message", payload: { content: "hello" } };

export async function connected(): Promise<{ browser: Browser; client: NetraClient; tab: Tab }> {
  const browser = new Browser();
  const tab = browser.tab();
  const client = await tab.open();
  return { browser, client, tab };
}
