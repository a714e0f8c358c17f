/** Forms made from JSON Schemas, and the answers that are read from them. */

import { describe, expect, it } from "vitest";
import type { JsonObject, JsonValue } from "../../src/index.js";

interface Field {
  readonly name: string;
  readonly label: string;
  readonly help: string;
  readonly kind: string;
  readonly isRequired: boolean;
  readonly choices: readonly { label: string; value: JsonValue }[];
  readonly initial: string;
}
interface Form {
  readonly isObject: boolean;
  readonly fields: readonly Field[];
}
type Texts = Readonly<Record<string, string>>;
type Reading = { readonly ok: true; readonly answer: JsonValue } | { readonly ok: false; readonly faults: ReadonlyMap<string, string> };

// The page's sources are compiled with options of their own.
const source = new URL("../../pages/chat/questions/schema.ts", import.meta.url).pathname;
const { formOf, initialTexts, readForm } = (await import(/* @vite-ignore */ source)) as {
  readonly formOf: (schema: JsonObject | null) => Form;
  readonly initialTexts: (form: Form) => Texts;
  readonly readForm: (form: Form, texts: Texts) => Reading;
};

/** Reads the answer to a question with one value; returns it, or the fault of its text. */
function read(schema: JsonObject | null, text: string): JsonValue | { fault: string } {
  const reading = readForm(formOf(schema), { "": text });
  return reading.ok ? reading.answer : { fault: reading.faults.get("") ?? "" };
}

const NO_NULL = { fault: "The answer cannot be null." }; // as the server says

describe("a question without a schema", () => {
  it("takes any text", () => {
    expect(formOf(null)).toMatchObject({ isObject: false, fields: [{ name: "", label: "Answer", kind: "text" }] });
    expect(read(null, " two\nlines ")).toBe(" two\nlines ");
    expect(read(null, " ")).toEqual({ fault: "Fill this in." });
  });
});

describe("a number", () => {
  it.each<[string, JsonValue]>([
    ["3", 3],
    [" -0.5 ", -0.5],
    ["+2e3", 2000],
    [".5", 0.5],
    ["5.", 5],
    ["three", { fault: "This is not a number." }],
    ["0x10", { fault: "This is not a number." }],
    ["1,5", { fault: "This is not a number." }],
    ["1e999", { fault: "This is not a number." }],
    ["Infinity", { fault: "This is not a number." }],
    ["", { fault: "Fill this in." }],
  ])("%j", (text, expected) => expect(read({ type: "number" }, text)).toEqual(expected));

  it.each<[string, JsonValue]>([
    ["3", 3],
    ["3.0", 3],
    ["3.5", { fault: "This is not a whole number." }],
    ["9007199254740993", { fault: "This is not a whole number." }],
    ["three", { fault: "This is not a whole number." }],
  ])("as an integer: %j", (text, expected) => expect(read({ type: "integer" }, text)).toEqual(expected));

  it("keeps to its bounds", () => {
    const inclusive = { type: "integer", minimum: 1, maximum: 3 };
    expect(["0", "1", "3", "4"].map((text) => read(inclusive, text))).toEqual([
      { fault: "At least 1." }, 1, 3, { fault: "At most 3." },
    ]);
    const exclusive = { type: "number", exclusiveMinimum: 1, exclusiveMaximum: 3 };
    expect(["1", "1.1", "2.9", "3"].map((text) => read(exclusive, text))).toEqual([
      { fault: "More than 1." }, 1.1, 2.9, { fault: "Less than 3." },
    ]);
  });
});

describe("a text", () => {
  it("keeps to its length, in characters", () => {
    const schema = { type: "string", minLength: 2, maxLength: 3 };
    expect(["a", "ab", "😀😀😀", "abcd"].map((text) => read(schema, text))).toEqual([
      { fault: "At least 2 characters." }, "ab", "😀😀😀", { fault: "At most 3 characters." },
    ]);
  });

  it("may have any pattern: the server checks that", () => {
    expect(read({ type: "string", pattern: "^(a+)+$" }, `${"a".repeat(40)}b`)).toBe(`${"a".repeat(40)}b`);
  });
});

describe("a choice", () => {
  it.each<[string, JsonObject, [string, JsonValue][]]>([
    ["an enum of any values", { enum: ["red", 3, null] }, [["red", "red"], ["3", 3], ["null", null]]],
    ["named values", { type: "string", enum: ["r", "g"], enumNames: ["Red"] }, [["Red", "r"], ["g", "g"]]],
    ["constants with titles", { oneOf: [{ const: 1, title: "One" }, { const: "2" }] }, [["One", 1], ["2", "2"]]],
    ["a boolean", { type: "boolean" }, [["Yes", true], ["No", false]]],
  ])("%s", (_, schema, choices) => {
    const [field] = formOf(schema).fields;
    expect(field?.kind).toBe("choice");
    expect(field?.choices.map(({ label, value }) => [label, value])).toEqual(choices);
    const answers = choices.map(([, value]) => (value === null ? NO_NULL : value));
    expect(choices.map((__, index) => read(schema, `${index}`))).toEqual(answers);
    expect(read(schema, "")).toEqual({ fault: "Choose one." });
  });

  it("is not made from other uses of oneOf", () => {
    expect(formOf({ oneOf: [{ const: 1 }, { type: "string" }] }).fields[0]).toMatchObject({ kind: "json", choices: [] });
  });
});

describe("anything else", () => {
  it.each<[JsonObject]>([
    [{}],
    [{ type: "array", items: { type: "string" } }],
    [{ type: ["string", "null"] }],
    [{ type: "object" }],
    [{ type: "object", properties: {} }],
    [{ type: "object", properties: { a: { type: "string" } }, anyOf: [{ required: ["a"] }] }],
    [{ $ref: "#/$defs/Answer" }],
    [{ type: "string", not: { const: "x" } }],
  ])("is typed as JSON: %j", (schema) => {
    expect(formOf(schema)).toMatchObject({ isObject: false, fields: [{ kind: "json" }] });
  });

  it("has to be JSON of the type that the schema names", () => {
    const notJson = { fault: 'This is not JSON, such as {"name": "value"} or [1, 2].' };
    expect(["[1, 2]", '{"a": 1}', "[1", "text", ""].map((text) => read({ type: "array" }, text))).toEqual([
      [1, 2],
      { fault: "Expected JSON of the type array." },
      notJson,
      notJson,
      { fault: "Fill this in." },
    ]);
    expect(["null", "5", '"a"'].map((text) => read({ type: ["integer", "null"] }, text))).toEqual([
      NO_NULL,
      5,
      { fault: "Expected JSON of the type integer or null." },
    ]);
    expect(["1.5", "true", "{}"].map((text) => read({}, text))).toEqual([1.5, true, {}]);
    for (const type of ["unknown", "constructor", "__proto__"]) expect(read({ type }, "1")).toBe(1);
    expect(read({ type: ["toString", "array"] }, "1")).toEqual({ fault: "Expected JSON of the type array." });
  });
});

describe("an object", () => {
  const schema: JsonObject = {
    type: "object",
    required: ["size", "color"],
    properties: {
      size: { type: "integer", title: "Size", description: "In metres.", default: 3 },
      color: { enum: ["red", "green"], default: "green" },
      note: { type: "string" },
      tags: { type: "array", default: ["a"] },
      nothing: true,
    },
  };

  it("has a field for each property, with its default", () => {
    const form = formOf(schema);
    expect(form.isObject).toBe(true);
    expect(form.fields.map(({ name, label, help, kind, isRequired }) => [name, label, help, kind, isRequired])).toEqual([
      ["size", "Size", "In metres.", "number", true],
      ["color", "color", "", "choice", true],
      ["note", "note", "", "text", false],
      ["tags", "tags", "", "json", false],
      ["nothing", "nothing", "", "json", false],
    ]);
    expect(initialTexts(form)).toEqual({ size: "3", color: "1", note: "", tags: '[\n  "a"\n]', nothing: "" });
  });

  it("is read without the optional fields that are empty", () => {
    const form = formOf(schema);
    expect(readForm(form, initialTexts(form))).toEqual({ ok: true, answer: { size: 3, color: "green", tags: ["a"] } });
    const filled = { size: "5", color: "0", note: "x", tags: "", nothing: "null" };
    expect(readForm(form, filled)).toEqual({ ok: true, answer: { size: 5, color: "red", note: "x", nothing: null } });
  });

  it("reports the faults of all fields", () => {
    expect(readForm(formOf(schema), { size: "x", color: "", tags: "5" })).toEqual({
      ok: false,
      faults: new Map([
        ["size", "This is not a whole number."],
        ["color", "Choose one."],
        ["tags", "Expected JSON of the type array."],
      ]),
    });
  });

  it("may have a property with any name", () => {
    const form = formOf({ type: "object", properties: JSON.parse('{"__proto__": {"type": "string"}}') as JsonObject });
    const reading = readForm(form, Object.fromEntries([["__proto__", "x"]]));
    expect(JSON.stringify(reading)).toBe('{"ok":true,"answer":{"__proto__":"x"}}');
  });

  it("ignores a default that is no choice", () => {
    expect(initialTexts(formOf({ enum: ["a"], default: "b" }))).toEqual({ "": "" });
  });
});
