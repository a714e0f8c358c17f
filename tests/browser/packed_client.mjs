// The packed client in Node, with those parts of a browser that Node has: bytes to and from a server.
//
//     node packed_client.mjs http://localhost:8000
//
// It has to be in a folder that the client is installed in. The last line of the output is JSON.

import { browserPorts, createClient, partText } from "@netra-trio/client";

const [url] = process.argv.slice(2);
const body = JSON.stringify({ user: "bytes" });
const login = await fetch(`${url}/ws/dev-token`, { method: "POST", body });
const { token } = await login.json();

const { locks: _, openChannel: __, ...ports } = browserPorts();
const onPage = () => () => undefined;
const client = createClient({ url, getToken: () => token }, { ...ports, onPage });
client.connect();
const ended = new Promise((resolve) => client.subscribe("agent_completed", resolve));

const data = new Uint8Array(64);
data.set([0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a]); // the begin of a PNG
const payload = { content: "look" };
const message = { type: "user_message", payload, data, media_type: "image/png" };
const isSent = await client.sendMessage(message);
if (!isSent) throw new Error(JSON.stringify(client.getSnapshot().lastError));
await ended;
const { session, threadId, messages } = client.getSnapshot();

/** Returns the first bytes of a file of the server. */
async function readFile({ file_id }) {
  const { url: address, headers } = await client.fileRequest(file_id);
  const answer = await fetch(address, { headers });
  return [...new Uint8Array(await answer.arrayBuffer())].slice(0, 4);
}

const [, { content, parts, attachments }] = messages;
const order = parts.map((part) => (part.type === "text" ? partText(content, part) : part.type));
const inline = attachments.map(({ file_id }) => client.fileBytes(file_id)?.byteLength ?? null);
const large = await readFile(attachments[1]);

const [{ files }] = (await client.loadThread(threadId)).messages;
const read = await readFile(files[0]);
const refused = client.checkMessage({ ...message, data: new Uint8Array(20_000) }).code;
client.close();
const { subprotocol } = session;
console.log(JSON.stringify({ subprotocol, order, attachments, inline, large, files, read, refused }));
process.exit();
