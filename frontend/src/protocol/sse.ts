/** Server-sent events: reads the events of a `text/event-stream`, however it is cut into chunks. */

export interface StreamEvent {
  /** `message` if the stream names none. */
  readonly type: string;
  /** The lines of the data, joined by line feeds. */
  readonly data: string;
  /** Of this event, not of an earlier one; null if it has none. */
  readonly id: string | null;
}

export class EventStreamReader {
  #rest = "";
  #isFirst = true;
  #type = "";
  #data: string[] = [];
  #id: string | null = null;

  /** Returns the events that are complete with this piece of the text. */
  read(piece: string): StreamEvent[] {
    this.#rest += piece;
    if (this.#isFirst && this.#rest !== "") {
      this.#isFirst = false;
      this.#rest = this.#rest.replace(/^\uFEFF/, "");
    }
    const events: StreamEvent[] = [];
    // A carriage return at the end may be the first half of a line's end.
    const lines = this.#rest.split(/\r\n|\n|\r(?!$)/);
    this.#rest = lines.pop() ?? "";
    for (const line of lines) {
      if (line !== "") this.#field(line);
      else events.push(...this.#complete());
    }
    return events;
  }

  #field(line: string): void {
    const colon = line.indexOf(":");
    if (colon === 0) return; // a comment
    const name = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
    if (name === "data") this.#data.push(value);
    else if (name === "event") this.#type = value;
    else if (name === "id") this.#id = value;
  }

  #complete(): StreamEvent[] {
    const event = { type: this.#type === "" ? "message" : this.#type, data: this.#data.join("\n"), id: this.#id };
    const isEmpty = this.#data.length === 0;
    this.#type = "";
    this.#data = [];
    this.#id = null;
    return isEmpty ? [] : [event];
  }
}
