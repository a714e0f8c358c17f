/** Bytes of answers, and bytes that go with messages. */

import { describe, expect, it, vi } from "vitest";
import type { NetraClient, OutgoingMessage, RequestError } from "../../src/index.js";
import { KEPT_BYTES } from "../../src/core/byte-store.js";
import { OUTBOX_BYTES } from "../../src/core/outbox.js";
import { Browser } from "../support/browser.js";
import { binaryFrame, INLINE_BYTES } from "../support/compact.js";
import { connected, hello } from "../support/connected.js";
import { tokenFor, type FakeServer } from "../support/server.js";

const PNG = "image/png";
const ONE = Uint8Array.of(1, 2, 3);
const withBytes = (data: ArrayBuffer | Uint8Array, content = "look"): OutgoingMessage => ({
  type: "user_message",
  payload: { content },
  data,
  media_type: PNG,
});

/** The binary frames that a server received, as far as they are of this type. */
const received = (server: FakeServer): unknown[] =>
  server.received.filter((message) => "attachments" in message.payload).map(({ payload }) => payload);

const errorOf = (client: NetraClient): string | undefined => client.getSnapshot().lastError?.code;

describe("bytes of an answer", () => {
  it("are a part at their place, and can be read", async () => {
    const { browser, client } = await connected();
    await client.sendMessage(hello);
    const { run } = browser.server;
    const messages: unknown[] = [];
    client.subscribe("binary_result", (message) => messages.push(message));
    browser.server.say(run.id, "before ");
    const inline = browser.server.sayBytes(run.id, PNG, ONE.buffer);
    browser.server.say(run.id, "after");
    const large = browser.server.sayBytes(run.id, "audio/mpeg", new ArrayBuffer(INLINE_BYTES + 1));
    browser.server.end(run.id);
    const [, answer] = client.getSnapshot().messages;
    expect(answer).toMatchObject({
      content: "before after",
      parts: [
        { type: "text", from: 0, to: 7 },
        { type: "file", file_id: inline },
        { type: "text", from: 7, to: 12 },
        { type: "file", file_id: large },
      ],
      attachments: [
        { file_id: inline, name: "", media_type: PNG, bytes: 3 },
        { file_id: large, name: "", media_type: "audio/mpeg", bytes: INLINE_BYTES + 1 },
      ],
    });
    expect(new Uint8Array(client.fileBytes(inline) ?? new ArrayBuffer())).toEqual(ONE);
    expect(client.fileBytes(large)).toBeNull();
    expect(client.fileBytes("unknown")).toBeNull();
    expect(messages).toMatchObject([{ payload: { file_id: inline }, data: ONE.buffer }, { payload: { file_id: large } }]);
    expect(browser.server.socket.binaryType).toBe("arraybuffer");
  });

  it("come as a reference with netra.v1", async () => {
    const browser = new Browser();
    browser.server.selects = () => "netra.v1";
    const client = await browser.tab().open();
    expect(client.getSnapshot().session?.subprotocol).toBe("netra.v1");
    await client.sendMessage(hello);
    const { run } = browser.server;
    const id = browser.server.sayBytes(run.id, PNG, ONE.buffer);
    browser.server.say(run.id, "text");
    expect(client.getSnapshot().runs).toMatchObject([{ text: "text", attachments: [{ file_id: id, bytes: 3 }] }]);
    expect(client.fileBytes(id)).toBeNull();
    const { session, socket } = browser.server;
    session.seq += 1;
    const payload = { run_id: run.id, media_type: PNG, file_id: "f", bytes: 3 };
    socket.deliverText(JSON.stringify({ type: "binary_result", payload, timestamp: 1, seq: session.seq, data: "AQID" }));
    expect(client.getSnapshot().runs[0]?.attachments).toHaveLength(2);
    expect(client.fileBytes("f")).toBeNull();
  });

  it("are in every tab, as far as it was open, and not shown to another user", async () => {
    const browser = new Browser();
    const [one, two, three] = [browser.tab(), browser.tab(), browser.tab()];
    const leader = await one.open();
    const follower = await two.open({ threadId: leader.getSnapshot().threadId });
    await leader.sendMessage(hello);
    const id = browser.server.sayBytes(browser.server.run.id, PNG, ONE.buffer);
    await browser.clock.advance(10);
    const later = await three.open({ threadId: leader.getSnapshot().threadId });
    for (const client of [leader, follower, later]) {
      expect(client.getSnapshot().runs).toMatchObject([{ attachments: [{ file_id: id }], parts: [{ type: "file", file_id: id }] }]);
    }
    expect([leader, follower, later].map((client) => client.fileBytes(id)?.byteLength)).toEqual([3, 3, undefined]);
    one.token = tokenFor("bob");
    leader.forceReconnect();
    await browser.clock.advance(10);
    expect(leader.getSnapshot().session?.user_id).toBe("bob");
    expect(leader.fileBytes(id)).toBeNull();
  });

  it("keep their place once the history lists them, and are known from it after a reload", async () => {
    const browser = new Browser();
    browser.server.keepsHistory = true;
    const tab = browser.tab();
    const client = await tab.open();
    await client.sendMessage(hello);
    const { run } = browser.server;
    browser.server.say(run.id, "a");
    const id = browser.server.sayBytes(run.id, PNG, ONE.buffer);
    browser.server.say(run.id, "b");
    browser.server.end(run.id);
    await client.loadThread(run.thread);
    const file = { file_id: id, name: "", media_type: PNG, bytes: 3 };
    const [, answer] = client.getSnapshot().messages;
    expect(answer).toMatchObject({ attachments: [file], message_id: `msg-${run.id}-answer` });
    const places = [{ type: "text", from: 0, to: 1 }, { type: "file", file_id: id }, { type: "text", from: 1, to: null }];
    expect(answer).toMatchObject({ parts: places });
    expect(client.getSnapshot().runs).toMatchObject([{ parts: places, attachments: [file] }]);
    const again = await tab.reload();
    await browser.clock.advance(1_000);
    expect(again.getSnapshot().messages[1]).toMatchObject({ content: "ab", attachments: [file] });
    expect(again.fileBytes(id)).toBeNull();
  });

  it("of other sessions are references", async () => {
    const { browser, client } = await connected();
    const { threadId } = client.getSnapshot();
    client.watchThread(threadId);
    const other = await new Browser(browser).tab().open({ threadId });
    await other.sendMessage(hello);
    const id = browser.server.sayBytes(browser.server.run.id, PNG, ONE.buffer);
    await browser.clock.advance(10);
    expect(client.getSnapshot().runs).toMatchObject([{ attachments: [{ file_id: id }], parts: [{ type: "file" }] }]);
    expect([client.fileBytes(id), other.fileBytes(id)?.byteLength]).toEqual([null, 3]);
  });

  it("are kept up to a bound, the newest ones", async () => {
    const { browser, client } = await connected();
    await client.sendMessage(hello);
    const files = Array.from({ length: KEPT_BYTES / INLINE_BYTES + 1 }, () =>
      browser.server.sayBytes(browser.server.run.id, PNG, new ArrayBuffer(INLINE_BYTES)),
    );
    expect(files.map((id) => client.fileBytes(id) !== null)).toEqual([false, ...Array<boolean>(files.length - 1).fill(true)]);
    expect(client.getSnapshot().runs[0]?.attachments).toHaveLength(files.length);
  });

  it("that cannot be read are skipped, and the text behind them is not", async () => {
    const { browser, client } = await connected();
    await client.sendMessage(hello);
    const { run, session, socket } = browser.server;
    session.seq += 1;
    session.written = session.seq;
    const payload = { run_id: run.id, media_type: PNG, file_id: "f", bytes: 4 };
    socket.deliverText(binaryFrame(JSON.stringify({ type: "binary_result", payload, timestamp: 1, seq: session.seq }), ONE));
    browser.server.say(run.id, "on");
    await browser.clock.advance(1_000);
    expect(errorOf(client)).toBe("BAD_SERVER_FRAME");
    expect(client.getSnapshot().runs).toMatchObject([{ text: "on", attachments: [] }]);
    expect(browser.server.sockets).toHaveLength(1);
    expect(browser.server.of("ack").at(-1)?.payload.seq).toBe(session.seq);
  });
});

describe("a message with bytes", () => {
  it("is one binary frame", async () => {
    const { browser, client } = await connected();
    const key = client.sendOptimisticMessage("look 語");
    const data = Uint8Array.of(9, 1, 2, 3, 9).subarray(1, 4);
    expect(await client.sendMessage({ ...withBytes(data, "look 語"), correlation_id: key })).toBe(true);
    expect(browser.server.bytes).toEqual([ONE]);
    const { threadId } = client.getSnapshot();
    expect(received(browser.server)).toEqual([{ thread_id: threadId, content: "look 語", attachments: [{ media_type: PNG }] }]);
    expect(client.getSnapshot().messages).toMatchObject([{ status: "confirmed", content: "look 語" }, { role: "agent" }]);
  });

  it("waits in memory, unchanged, and is sent again under the same key", async () => {
    const { browser, client } = await connected();
    browser.server.isUp = false;
    browser.server.socket.drop(1006);
    const data = Uint8Array.from(ONE);
    const sent = client.sendMessage(withBytes(data));
    data.fill(0);
    expect(client.getSnapshot()).toMatchObject({ queued: 1, lastError: { code: "CONNECTION_LOST" } });
    browser.server.isUp = true;
    browser.server.isMute = true;
    await browser.clock.advance(2_000);
    browser.server.isMute = false;
    browser.server.socket.drop(1006);
    await browser.clock.advance(2_000);
    expect(await sent).toBe(true);
    expect(browser.server.bytes).toEqual([ONE, ONE]);
    expect(new Set(browser.server.of("user_message").map(({ correlation_id }) => correlation_id)).size).toBe(1);
    expect(browser.server.runs.size).toBe(1);
  });

  it("does not survive a reload, and the messages around it do", async () => {
    const browser = new Browser();
    browser.server.isUp = false;
    const tab = browser.tab();
    const stored = [browser.shared, tab.storage].map((storage) => vi.spyOn(storage, "set"));
    const client = await tab.open();
    for (const message of [hello, withBytes(ONE), { ...hello, payload: { content: "last" } }]) void client.sendMessage(message);
    browser.server.isUp = true;
    const again = await tab.reload();
    await browser.clock.advance(2_000);
    expect(browser.server.contents).toEqual(["hello", "last"]);
    expect(stored.flatMap(({ mock }) => mock.calls).filter(([, value]) => value.includes(PNG))).toEqual([]);
    expect(again.getSnapshot().lastError).toBeNull();
  });

  it.each(["netra.v1", ""])("fails on a connection with %j, with the reason", async (subprotocol) => {
    const browser = new Browser();
    browser.server.selects = () => subprotocol;
    const client = await browser.tab().open();
    const unsupported = { code: "BYTES_NOT_SUPPORTED", help: "Upload them as a file, and send its id." };
    expect(client.checkMessage(withBytes(ONE))).toMatchObject(unsupported);
    const key = client.sendOptimisticMessage("look");
    expect(await client.sendMessage({ ...withBytes(ONE), correlation_id: key })).toBe(false);
    expect(client.getSnapshot()).toMatchObject({ lastError: unsupported, messages: [{ status: "failed", error: unsupported }], queued: 0 });
    expect(browser.server.bytes).toEqual([]);
    // The connection is fine.
    expect(await client.sendMessage(hello)).toBe(true);
  });

  it("that waits fails if the next connection carries none; the next message is sent", async () => {
    const browser = new Browser();
    browser.server.selects = () => "netra.v1";
    browser.server.isUp = false;
    const client = await browser.tab().open();
    const sent = [client.sendMessage(withBytes(ONE)), client.sendMessage(hello)];
    const published = client.publish("news", "look", { data: ONE, media_type: PNG });
    const failed = expect(published).rejects.toMatchObject({ body: { code: "BYTES_NOT_SUPPORTED" } });
    browser.server.isUp = true;
    await browser.clock.advance(2_000);
    expect(await Promise.all(sent)).toEqual([false, true]);
    await failed;
  });

  it("is measured with its bytes, at the limit and one beyond", async () => {
    const { browser, client } = await connected();
    await browser.clock.advance(113); // the time has three decimals then
    let [fits, tooLong] = [0, 10_240];
    while (tooLong - fits > 1) {
      const middle = (fits + tooLong) >> 1;
      if (client.checkMessage(withBytes(new Uint8Array(middle))) === null) fits = middle;
      else tooLong = middle;
    }
    let frame = 0;
    const { socket } = browser.server;
    const { onData } = socket;
    socket.onData = (data) => {
      if (typeof data !== "string") frame = data.byteLength;
      onData(data);
    };
    expect(await client.sendMessage(withBytes(new Uint8Array(fits)))).toBe(true);
    expect(frame).toBe(10_240);
    expect(client.checkMessage(withBytes(new Uint8Array(tooLong)))?.code).toBe("MESSAGE_TOO_LARGE");
    expect(await client.sendMessage(withBytes(new Uint8Array(tooLong)))).toBe(false);
    expect(errorOf(client)).toBe("MESSAGE_TOO_LARGE");
    expect(browser.server.bytes).toHaveLength(1);
  });

  it("is measured by the server's default before the first connection", async () => {
    const browser = new Browser();
    browser.server.isUp = false;
    const client = await browser.tab().open();
    expect(await client.sendMessage(withBytes(new Uint8Array(10_240)))).toBe(false);
    expect(errorOf(client)).toBe("MESSAGE_TOO_LARGE");
  });

  it("finds room only within a bound, which text does not count for", async () => {
    const browser = new Browser();
    browser.server.limits = { ...browser.server.limits, max_message_size: 2 * OUTBOX_BYTES };
    const client = await browser.tab().open();
    browser.server.isMute = true;
    const [half, more] = [new Uint8Array(OUTBOX_BYTES / 2), new Uint8Array(OUTBOX_BYTES / 2 + 1)];
    const sent = [client.sendMessage(withBytes(half)), client.sendMessage(withBytes(half))];
    expect(client.checkMessage(withBytes(Uint8Array.of(1)))?.code).toBe("OUTBOX_FULL");
    expect(await client.sendMessage(withBytes(Uint8Array.of(1)))).toBe(false);
    expect(errorOf(client)).toBe("OUTBOX_FULL");
    expect(client.checkMessage(hello)).toBeNull();
    browser.server.isMute = false;
    browser.server.socket.drop(1006);
    await browser.clock.advance(2_000);
    expect(await Promise.all(sent)).toEqual([true, true]);
    browser.server.isMute = true;
    void client.sendMessage(withBytes(half));
    expect(client.checkMessage(withBytes(more))?.code).toBe("OUTBOX_FULL");
    expect(client.checkMessage(withBytes(half))).toBeNull();
  });

  it("goes through the tab that leads, and to its successor", async () => {
    const browser = new Browser();
    const [one, two] = [browser.tab(), browser.tab()];
    await one.open();
    const follower = await two.open();
    browser.server.isMute = true;
    const sent = follower.sendMessage(withBytes(ONE));
    await browser.clock.advance(10);
    expect(browser.server.bytes).toEqual([ONE]);
    browser.server.isMute = false;
    one.unload();
    await browser.clock.advance(2_000);
    expect(await sent).toBe(true);
    expect(browser.server.bytes).toEqual([ONE, ONE]);
    expect(follower.getSnapshot().role).toBe("leader");
  });

  it("that failed is sent again with its bytes, while they are kept", async () => {
    const { browser, client } = await connected();
    browser.server.rejection = { code: "AGENT_BUSY" };
    const key = client.sendOptimisticMessage("look");
    expect(await client.sendMessage({ ...withBytes(ONE), correlation_id: key })).toBe(false);
    browser.server.rejection = null;
    const again = client.resend(key);
    await browser.clock.advance(10);
    expect(browser.server.bytes).toEqual([ONE, ONE]);
    expect(client.getSnapshot().messages.find(({ id }) => id === again)).toMatchObject({ status: "confirmed", content: "look" });
    for (let n = 0; n <= KEPT_BYTES / INLINE_BYTES; n += 1) browser.server.sayBytes(browser.server.run.id, PNG, new ArrayBuffer(INLINE_BYTES));
    expect(client.resend(key)).toBeNull();
    expect(browser.server.bytes).toHaveLength(2);
  });

  it.each([
    ["audio/webm;codecs=opus", true],
    ["text/plain; charset=utf-8", true],
    ["application/vnd.api+json", true],
    [`a/${"b".repeat(125)}`, true],
    [`a/${"b".repeat(126)}`, false],
    ["image/", false],
    ["image/png ", false],
    ["image/p\u00e4g", false],
    ["audio/webm;codecs", false],
  ])("of the type %j is accepted: %s", async (media_type, isAccepted) => {
    const { client } = await connected();
    expect(client.checkMessage({ ...withBytes(ONE), media_type })?.code).toBe(isAccepted ? undefined : "VALIDATION_ERROR");
  });

  it.each<[string, OutgoingMessage, string]>([
    ["of another type", { ...withBytes(ONE), type: "agent_request", payload: { agent: "echo", input: "x" } }, '$.data: expected nothing in "agent_request"'],
    ["beside files", { ...withBytes(ONE), payload: { content: "x", attachments: ["f"] } }, "$.payload.attachments: expected nothing beside data"],
    ["without a type", { type: "user_message", payload: { content: "x" }, data: ONE }, "$.media_type: expected a media type, for example image/png, got nothing"],
    ["with a type that is none", { ...withBytes(ONE), media_type: "image" }, '$.media_type: expected a media type, for example image/png, got "image"'],
    ["that are none", { ...withBytes(ONE), data: "text" as unknown as Uint8Array }, '$.data: expected bytes, got "text"'],
  ])("%s is refused", async (_, message, error) => {
    const { browser, client } = await connected();
    expect(client.checkMessage(message)).toMatchObject({ code: "VALIDATION_ERROR", error });
    expect(await client.sendMessage(message)).toBe(false);
    expect(client.getSnapshot().lastError?.error).toBe(error);
    expect(browser.server.bytes).toEqual([]);
  });
});

describe("bytes for a room", () => {
  it("are published once, however often they are sent", async () => {
    const { browser, client } = await connected();
    browser.server.isMute = true;
    const published = client.publish("news", { text: "look" }, { data: ONE, media_type: PNG });
    await browser.clock.advance(10);
    browser.server.isMute = false;
    browser.server.socket.drop(1006);
    await browser.clock.advance(2_000);
    expect(await published).toMatchObject({ room: "news", offset: 1 });
    expect(browser.server.bytes).toEqual([ONE, ONE]);
    expect(received(browser.server).at(-1)).toEqual({ room: "news", content: { text: "look" }, attachments: [{ media_type: PNG }] });
    const message = { type: "room_message", payload: { room: "news", content: "look" }, data: ONE, media_type: PNG };
    expect(await client.sendMessage(message)).toBe(true);
    expect(browser.server.bytes).toHaveLength(3);
  });

  it("are refused if they do not fit, before they wait", async () => {
    const { browser, client } = await connected();
    browser.server.socket.drop(1006);
    const large = { data: new Uint8Array(10_240), media_type: PNG };
    const code = (error: unknown): string => (error as RequestError).body.code;
    await expect(client.publish("news", "look", large).catch(code)).resolves.toBe("MESSAGE_TOO_LARGE");
    await expect(client.publish("news", "look", { data: ONE }).catch(code)).resolves.toBe("VALIDATION_ERROR");
    expect(browser.server.bytes).toEqual([]);
  });
});
