// Conversations by the client of OpenAI for Node.js.
// Argument: {"baseURL", "token", "expired"}. Prints {"models", "whole", "streamed", …}.

import OpenAI from "openai";

const { baseURL, token, expired } = JSON.parse(process.argv[2]);
const client = new OpenAI({ baseURL, apiKey: token, maxRetries: 0 });
const completions = client.chat.completions;
const asking = (content, more = {}) => ({
  model: "count",
  messages: [{ role: "user", content }],
  ...more,
});

/** Return the text of a stream, up to its end. */
async function textOf(stream) {
  let text = "";
  for await (const chunk of stream) text += chunk.choices[0]?.delta.content ?? "";
  return text;
}

/** Return the class, the status and the code of the error of a call. */
async function errorOf(call) {
  try {
    await call();
  } catch (error) {
    return [error.constructor.name, error.status ?? null, error.code ?? null];
  }
  return null;
}

/** Read the first text of an answer, and stop it. */
async function stopped() {
  const stream = await completions.create(asking("100000", { stream: true }));
  for await (const chunk of stream) if (chunk.choices[0].delta.content) break;
  return stream.controller.signal.aborted;
}

/** Lose an answer after its first text, and send the same request again. */
async function repeated() {
  const options = { headers: { "Idempotency-Key": "node-1" } };
  const request = asking("30", { stream: true });
  for await (const chunk of await completions.create(request, options))
    if (chunk.choices[0].delta.content) break;
  return textOf(await completions.create(request, options));
}

const models = [];
for await (const model of client.models.list()) models.push(model.id);
const whole = await completions.create(asking("4"));
const helper = completions.stream(asking("5", { stream_options: { include_usage: true } }));
const stranger = new OpenAI({ baseURL, apiKey: expired, maxRetries: 0 });
console.log(
  JSON.stringify({
    models,
    whole: { text: whole.choices[0].message.content, requestId: whole._request_id },
    streamed: await textOf(await completions.create(asking("4", { stream: true }))),
    accumulated: (await helper.finalChatCompletion()).choices[0].message.content,
    stopped: await stopped(),
    repeated: await repeated(),
    errors: {
      model: await errorOf(() => completions.create(asking("1", { model: "gpt-4" }))),
      choices: await errorOf(() => completions.create(asking("1", { n: 2 }))),
      token: await errorOf(() => stranger.models.list()),
      failed: await errorOf(() => completions.create(asking("1", { model: "fail" }))),
      inStream: await errorOf(async () =>
        textOf(await completions.create(asking("1", { model: "fail", stream: true }))),
      ),
    },
  }),
);
