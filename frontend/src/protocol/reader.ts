/**
 * Reads the frames of one socket. With `netra.v2` text of answers and bytes have short forms, which
 * become the same messages as those of `netra.v1`:
 *
 *     [seq, "text"]                    of the run that `agent_started` named last on this socket
 *     [seq, "text", run]               of the run with this number
 *     [seq, "text", run, seq_from]     merged
 */

import { readBinary } from "./binary.js";
import { integer, isObject, show, text } from "./check.js";
import { bad, decode, decodeValue, parseFrame, type Decoded } from "./decode.js";
import { SUBPROTOCOL_2, type ServerMessage } from "./messages.js";

/** A run that has not ended. */
interface NamedRun {
  readonly run_id: string;
  readonly correlation_id?: string;
}

const FIELDS = 4; // of the longest delta
const number1 = integer(1);

export class FrameReader {
  readonly #socket: { readonly protocol: string };
  readonly #now: () => number;
  /** By their numbers. */
  readonly #runs = new Map<number, NamedRun>();
  /** The run that was named last. */
  #latest: NamedRun | null = null;
  /** Milliseconds that the server's clock is ahead. */
  #ahead = 0;

  /** @param now Returns milliseconds since 1970. */
  constructor(socket: { readonly protocol: string }, now: () => number) {
    this.#socket = socket;
    this.#now = now;
  }

  read(data: unknown): Decoded {
    if (this.#socket.protocol !== SUBPROTOCOL_2) return decode(data);
    if (data instanceof ArrayBuffer) return this.#binary(data);
    const value = parseFrame(data);
    if (Array.isArray(value)) return this.#delta(value);
    return this.#noted(value, decodeValue(value));
  }

  #binary(frame: ArrayBuffer): Decoded {
    const parts = readBinary(frame);
    if (typeof parts === "string") return bad(parts);
    const { json, data } = parts;
    const decoded = decode(json);
    if (!decoded.ok) return decoded;
    const { message } = decoded;
    if (message.type !== "binary_result") {
      return bad(`$.type: expected binary_result with bytes, got ${message.type}`, message);
    }
    const { bytes } = message.payload;
    if (bytes !== data.byteLength) return bad(`$.payload.bytes: expected ${data.byteLength}, got ${bytes}`, message);
    return { ok: true, message: { ...message, data } };
  }

  #delta(value: readonly unknown[]): Decoded {
    const [seq, content, number, seq_from] = value;
    const fault = deltaFault(value);
    if (fault !== null) return bad(fault, { seq, seq_from });
    const run = value.length === 2 ? this.#latest : this.#runs.get(number as number);
    if (run == null) return bad(`$[2]: expected the number of a run, got ${show(number)}`, { seq, seq_from });
    const { run_id, ...rest } = run;
    const numbers = { seq: seq as number, ...(value.length === FIELDS ? { seq_from: seq_from as number } : {}) };
    const payload = { run_id, content: content as string };
    // A delta has no time: it is as old as its arrival, by the server's clock.
    const timestamp = (this.#now() + this.#ahead) / 1000;
    return { ok: true, message: { type: "partial_result", payload, timestamp, ...rest, ...numbers } };
  }

  /** Notes which runs a frame names. */
  #noted(value: unknown, decoded: Decoded): Decoded {
    if (decoded.ok) this.#note(decoded.message);
    // Later deltas without a number belong to a run that is not known.
    else if (isObject(value) && value["type"] === "agent_started") this.#latest = null;
    return decoded;
  }

  #note(message: ServerMessage): void {
    if (message.type === "connection_established") {
      this.#ahead = message.timestamp * 1000 - this.#now();
      for (const { run, run_id, correlation_id } of message.payload.resume.runs) {
        if (run !== undefined) this.#runs.set(run, { run_id, correlation_id });
      }
    } else if (message.type === "agent_started") {
      const { run, run_id } = message.payload;
      const { correlation_id } = message;
      this.#latest = { run_id, ...(correlation_id === undefined ? {} : { correlation_id }) };
      if (run !== undefined) this.#runs.set(run, this.#latest);
    } else if (message.type === "agent_completed") {
      const { run_id } = message.payload;
      for (const [number, run] of this.#runs) if (run.run_id === run_id) this.#runs.delete(number);
      if (this.#latest?.run_id === run_id) this.#latest = null;
    }
  }
}

function deltaFault(value: readonly unknown[]): string | null {
  const { length } = value;
  if (length < 2 || length > FIELDS) return `$: expected 2 to ${FIELDS} fields, got ${length}`;
  const [seq, content, number, seq_from] = value;
  return (
    number1(seq, "$[0]") ??
    text(content, "$[1]") ??
    (length > 2 ? number1(number, "$[2]") : null) ??
    (length > 3 ? integer(1, seq as number)(seq_from, "$[3]") : null)
  );
}
