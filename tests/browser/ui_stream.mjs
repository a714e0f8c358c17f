// Reads UI message streams with the Vercel AI SDK, which checks each chunk against its schema.
// Prints the port of an HTTP server. A request has the list of the bodies of answers, of which a
// later one continues the message of the one before it. The answer has the message, and the text of
// the error that ended it.

import http from "node:http";
import { json } from "node:stream/consumers";
import { DefaultChatTransport, readUIMessageStream } from "ai";

async function read(bodies) {
  let message;
  for (const body of bodies) {
    const transport = new DefaultChatTransport({ fetch: async () => new Response(body) });
    const request = { chatId: "c", messages: [], trigger: "submit-message" };
    const stream = await transport.sendMessages(request);
    try {
      const read = readUIMessageStream({ message, stream, terminateOnError: true });
      for await (const state of read) message = state;
    } catch (error) {
      return { message, error: error.message };
    }
  }
  return { message, error: null };
}

const server = http.createServer(async (request, response) => {
  response.end(JSON.stringify(await read(await json(request))));
});
server.listen(0, "127.0.0.1", () => console.log(JSON.stringify({ port: server.address().port })));
