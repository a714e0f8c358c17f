// Reads UI message streams with the Vercel AI SDK, which checks each chunk against its schema.
// Argument: a list of conversations, each a list of the bodies of answers. A later body continues
// the message of the body before it.
// Prints for each conversation the message, and the text of the error that ended it.

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

const results = [];
for (const bodies of JSON.parse(process.argv[2])) results.push(await read(bodies));
console.log(JSON.stringify(results));
