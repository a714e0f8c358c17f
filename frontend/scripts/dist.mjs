/** Checks the built package: the React entry is a client module, and a server can import and render it. */

import { readFileSync } from "node:fs";
import { createElement } from "react";
import { renderToString } from "react-dom/server";

const entry = new URL("../dist/react/index.js", import.meta.url);
if (!readFileSync(entry, "utf8").startsWith('"use client";')) {
  throw new Error('dist/react/index.js does not begin with "use client"');
}

const { EnhancedWebSocketProvider, useNetra } = await import(entry.href);
const Status = () => useNetra((netra) => netra.status);
const html = renderToString(
  createElement(EnhancedWebSocketProvider, { url: "https://api.example" }, createElement(Status)),
);
if (html !== "DISCONNECTED") throw new Error(`rendered on a server as ${html}`);
console.log("dist/react/index.js: a client module, rendered on a server");
