// Conversations by two WebSocket clients of Node: npm's `ws`, and the one that Node has built in.
// Argument: {"url", "token"}. Prints {"ws": …, "builtin": …, "refused": …, "terminated": …}.

import WS from "ws";

const { url, token } = JSON.parse(process.argv[2]);
const coded = Buffer.from(token).toString("base64url");

/** Send right at the open event, answer nothing before; resolve when the line is closed. */
function converse(socket, what) {
  return new Promise((resolve) => {
    const frames = [];
    socket.onerror = (event) => frames.push({ type: "error event", message: event.message });
    socket.onopen = () => {
      socket.send(JSON.stringify({ type: "ping", payload: { from: what } }));
      const message = { type: "user_message", payload: { content: `hello from ${what}`, agent: "echo" } };
      socket.send(JSON.stringify(message));
    };
    socket.onmessage = (event) => {
      const frame = JSON.parse(event.data);
      frames.push(frame);
      if (frame.type === "agent_completed") {
        socket.send(JSON.stringify({ type: "ack", payload: { seq: frame.seq } }));
        socket.close(1000, "done");
      }
    };
    socket.onclose = (event) =>
      resolve({
        frames,
        protocol: socket.protocol,
        extensions: socket.extensions,
        code: event.code,
        clean: event.wasClean,
      });
  });
}

/** Open with `ws`; resolve with the refusal's status and body. */
function refusal(address) {
  return new Promise((resolve, reject) => {
    const socket = new WS(address);
    socket.on("open", () => reject(new Error("it came in")));
    socket.on("error", () => {});
    socket.on("unexpected-response", (_, response) => {
      let body = "";
      response.on("data", (data) => (body += data));
      response.on("end", () => resolve({ status: response.statusCode, body: JSON.parse(body) }));
    });
  });
}

/** The protocol's own ping, answered by the server. */
function pinged() {
  return new Promise((resolve) => {
    const socket = new WS(`${url}?token=${token}`);
    socket.on("open", () => socket.ping("are you there"));
    socket.on("pong", (data) => {
      socket.close();
      resolve(data.toString());
    });
  });
}

const bearer = { headers: { Authorization: `Bearer ${token}` } };
const result = {
  ws: await converse(new WS(url, ["netra.v1"], bearer), "ws"),
  plain: await converse(new WS(`${url}?token=${token}`), "plain"),
  builtin: await converse(new WebSocket(url, ["netra.v1", `jwt.${coded}`]), "builtin"),
  refused: await refusal(`${url}?token=wrong`),
  pong: await pinged(),
};
console.log(JSON.stringify(result));
