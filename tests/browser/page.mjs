// A real browser's WebSocket and fetch, on a page of an allowed origin and on one of a foreign one.
// Argument: {"server", "token", "allowed", "foreign"}: host:port, a JWT, and the pages' addresses.
// Prints what each page saw.

import chromium from "@sparticuz/chromium";
import { chromium as playwright } from "playwright-core";

const given = JSON.parse(process.argv[2]);

// The package switches the browser's security off; what is tested here is that security. And in a
// single process the browser does not survive its first page.
const off = ["--disable-web-security", "--allow-running-insecure-content", "--single-process"];
const args = chromium.args.filter((argument) => !off.includes(argument));
const browser = await playwright.launch({
  executablePath: await chromium.executablePath(),
  args: [...args, "--host-resolver-rules=MAP evil.example 127.0.0.1"],
});

/** Runs in the page: opens sockets and asks over HTTP, and returns what it saw. */
async function visit({ server, token }) {
  const http = `http://${server}`;
  const ws = `ws://${server}/ws`;
  const coded = btoa(token).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");

  function converse(url, protocols, act) {
    return new Promise((resolve) => {
      const socket = new WebSocket(url, protocols);
      const seen = { opened: false, frames: [] };
      socket.onopen = () => {
        seen.opened = true;
        act.open?.(socket);
      };
      socket.onmessage = (event) => {
        const frame = JSON.parse(event.data);
        seen.frames.push(frame);
        act.frame?.(socket, frame);
      };
      socket.onclose = (event) =>
        resolve({
          ...seen,
          code: event.code,
          clean: event.wasClean,
          protocol: socket.protocol,
          extensions: socket.extensions,
        });
    });
  }

  async function ask(path, options) {
    try {
      const answer = await fetch(http + path, options);
      return { status: answer.status, body: await answer.json() };
    } catch (error) {
      return { failed: error.name };
    }
  }

  const talk = {
    open: (socket) =>
      socket.send(
        JSON.stringify({ type: "user_message", payload: { content: "hello 🌍", agent: "echo" } }),
      ),
    frame: (socket, frame) => frame.type === "agent_completed" && socket.close(1000, "done"),
  };
  const fail = {
    open: (socket) => {
      socket.send(new Blob(["{}"]));
      for (let count = 0; count < 4; count++) socket.send("{");
    },
  };
  const bearer = { method: "POST", headers: { Authorization: `Bearer ${token}` } };
  const ticket = await ask("/ws/ticket", bearer);
  const withTicket = `${ws}?ticket=${ticket.body?.ticket}`;
  return {
    origin: location.origin,
    config: await ask("/ws/config"),
    ticket,
    no_ticket: await ask("/ws/ticket", { method: "POST", headers: { Authorization: "Bearer x" } }),
    by_ticket: await converse(withTicket, ["netra.v1"], talk),
    by_ticket_again: await converse(withTicket, ["netra.v1"], talk),
    by_subprotocol: await converse(ws, ["netra.v1", `jwt.${coded}`], talk),
    by_query: await converse(`${ws}?token=${token}`, [], talk),
    without: await converse(ws, ["netra.v1"], talk),
    failing: await converse(ws, ["netra.v1", `jwt.${coded}`], fail),
  };
}

const result = { version: browser.version() };
for (const name of ["allowed", "foreign"]) {
  const page = await browser.newPage();
  await page.goto(given[name]);
  result[name] = await page.evaluate(visit, given);
  await page.close();
}
await browser.close();
console.log(JSON.stringify(result));
