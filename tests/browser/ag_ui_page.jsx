// A small chat page on the unmodified client of AG-UI. Its settings are in `globalThis.SETTINGS`.

import { HttpAgent } from "@ag-ui/client";
import { StrictMode, useEffect, useMemo, useState } from "react";
import { createRoot } from "react-dom/client";

const { url, token } = globalThis.SETTINGS;
const headers = { Authorization: `Bearer ${token}` };

function Message({ message, results }) {
  if (message.role === "tool") return null;
  const calls = message.toolCalls ?? [];
  return (
    <div className={message.role}>
      {message.content}
      {calls.map(({ id, function: call }) => (
        <div className="call" key={id}>
          <b>{call.name}</b> <code>{call.arguments}</code>
          <span>{results.get(id) ?? "…"}</span>
        </div>
      ))}
    </div>
  );
}

function Chat() {
  const agent = useMemo(() => new HttpAgent({ url, headers, threadId: crypto.randomUUID() }), []);
  const [messages, setMessages] = useState([]);
  const [isRunning, setRunning] = useState(false);
  const [note, setNote] = useState("");
  const [text, setText] = useState("");
  useEffect(() => {
    const show = () => setMessages(structuredClone(agent.messages));
    const { unsubscribe } = agent.subscribe({
      onMessagesChanged: show,
      onRunErrorEvent: ({ event }) => setNote(event.code),
    });
    return unsubscribe;
  }, [agent]);

  async function run(parameters) {
    setNote("");
    setRunning(true);
    await agent.runAgent(parameters).catch((error) => setNote(error.message));
    setRunning(false);
  }
  function send(event) {
    event.preventDefault();
    agent.addMessage({ id: crypto.randomUUID(), role: "user", content: text });
    setText("");
    void run();
  }
  function answer(interrupt, approved) {
    void run({ resume: [{ interruptId: interrupt.id, status: "resolved", payload: { approved } }] });
  }
  function stop() {
    const body = JSON.stringify({ threadId: agent.threadId });
    void fetch(`${url}/stop`, { method: "POST", headers, body });
  }

  const results = new Map(messages.flatMap((each) => (each.role === "tool" ? [[each.toolCallId, each.content]] : [])));
  return (
    <main>
      <h1>HttpAgent of @ag-ui/client</h1>
      {messages.map((message) => <Message key={message.id} message={message} results={results} />)}
      {!isRunning && agent.pendingInterrupts.map((interrupt) => (
        <div className="interrupt" key={interrupt.id}>
          {interrupt.message}
          <button onClick={() => answer(interrupt, true)}>Approve</button>
          <button onClick={() => answer(interrupt, false)}>Deny</button>
        </div>
      ))}
      <p role="status">{note}</p>
      <form onSubmit={send}>
        <input aria-label="Message" value={text} onChange={(event) => setText(event.target.value)} />
        {isRunning ? <button type="button" onClick={stop}>Stop</button> : <button>Send</button>}
      </form>
    </main>
  );
}

createRoot(document.getElementById("root")).render(<StrictMode><Chat /></StrictMode>);
