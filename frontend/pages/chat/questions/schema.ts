// Forms made from the JSON Schema of an answer. The user types JSON where no other input fits. The
// checks here are for the user's convenience; the server validates the answer against the schema.

import type { JsonObject, JsonValue } from "../../../src/index.ts";

export interface Choice {
  readonly label: string;
  readonly value: JsonValue;
}

export interface Field {
  /** The property; empty if the whole answer is one value. */
  readonly name: string;
  readonly label: string;
  readonly help: string;
  readonly kind: "text" | "number" | "choice" | "json";
  readonly isRequired: boolean;
  /** The choices of a field of the kind `choice`; the text of this field is the chosen index. */
  readonly choices: readonly Choice[];
  /** The text before the user changes it. */
  readonly initial: string;
  readonly schema: JsonObject;
}

export interface Form {
  /** Whether the answer is an object with the fields as its properties. */
  readonly isObject: boolean;
  readonly fields: readonly Field[];
}

/** The texts of the fields, by name. */
export type Texts = Readonly<Record<string, string>>;

/** The errors of fields, by name; a field may have any name, such as `constructor`. */
export type Faults = ReadonlyMap<string, string>;

export type Reading =
  | { readonly ok: true; readonly answer: JsonValue }
  | { readonly ok: false; readonly faults: Faults };

/** Keywords with which `properties` alone does not describe the answer. */
const COMBINING = ["$ref", "allOf", "anyOf", "oneOf", "not", "if", "patternProperties", "dependentSchemas"];

const isObject = (value: JsonValue | undefined): value is JsonObject =>
  typeof value === "object" && value !== null && !Array.isArray(value);
const textOf = (value: JsonValue | undefined): string => (typeof value === "string" ? value : "");

export function formOf(schema: JsonObject | null): Form {
  const { type, properties, required } = schema ?? {};
  const names = isObject(properties) ? Object.keys(properties) : [];
  const isPlain = !COMBINING.some((keyword) => keyword in (schema ?? {}));
  if (type !== "object" || !isObject(properties) || names.length === 0 || !isPlain) {
    return { isObject: false, fields: [fieldOf("", schema ?? { type: "string" }, true)] };
  }
  const needed: readonly JsonValue[] = Array.isArray(required) ? required : [];
  const fields = names.map((name) => {
    const property = properties[name];
    return fieldOf(name, isObject(property) ? property : {}, needed.includes(name));
  });
  return { isObject: true, fields };
}

function fieldOf(name: string, schema: JsonObject, isRequired: boolean): Field {
  const choices = choicesOf(schema);
  const kind = choices.length > 0 ? "choice" : kindOf(schema);
  return {
    name,
    label: textOf(schema["title"]) || name || "Answer",
    help: textOf(schema["description"]),
    kind,
    isRequired,
    choices,
    initial: initialOf(schema["default"], kind, choices),
    schema,
  };
}

function kindOf(schema: JsonObject): Field["kind"] {
  if (COMBINING.some((keyword) => keyword in schema)) return "json";
  switch (schema["type"]) {
    case "string":
      return "text";
    case "number":
    case "integer":
      return "number";
    default:
      return "json";
  }
}

function choicesOf(schema: JsonObject): readonly Choice[] {
  const { type, enum: values, enumNames, oneOf } = schema;
  if (Array.isArray(values)) {
    const names = Array.isArray(enumNames) ? enumNames : [];
    return (values as readonly JsonValue[]).map((value, index) => ({
      label: textOf(names[index] as JsonValue | undefined) || labelOf(value),
      value,
    }));
  }
  if (Array.isArray(oneOf)) {
    const options = (oneOf as readonly JsonValue[]).filter((one): one is JsonObject => isObject(one) && "const" in one);
    if (options.length !== oneOf.length) return [];
    return options.map(({ const: value = null, title }) => ({ label: textOf(title) || labelOf(value), value }));
  }
  if (type === "boolean") {
    return [
      { label: "Yes", value: true },
      { label: "No", value: false },
    ];
  }
  return [];
}

const labelOf = (value: JsonValue): string => (typeof value === "string" ? value : JSON.stringify(value));

function initialOf(value: JsonValue | undefined, kind: Field["kind"], choices: readonly Choice[]): string {
  if (value === undefined) return "";
  if (kind === "choice") {
    const index = choices.findIndex((choice) => JSON.stringify(choice.value) === JSON.stringify(value));
    return index < 0 ? "" : `${index}`;
  }
  return kind === "json" ? JSON.stringify(value, null, 2) : labelOf(value);
}

export const initialTexts = ({ fields }: Form): Texts =>
  Object.fromEntries(fields.map(({ name, initial }) => [name, initial]));

/** Returns the answer of these texts, or the errors of the fields. */
export function readForm({ isObject: isWhole, fields }: Form, texts: Texts): Reading {
  const faults = new Map<string, string>();
  const values: [string, JsonValue][] = [];
  for (const field of fields) {
    const read = readField(field, texts[field.name] ?? "");
    if ("fault" in read) faults.set(field.name, read.fault);
    else if (read.value !== undefined) values.push([field.name, read.value]);
  }
  if (faults.size > 0) return { ok: false, faults };
  if (isWhole) return { ok: true, answer: Object.fromEntries(values) };
  const [[name, answer] = ["", null]] = values;
  return answer === null ? { ok: false, faults: new Map([[name, "The answer cannot be null."]]) } : { ok: true, answer };
}

/** The result of one field; `value` is undefined for an optional field that is empty. */
type Read = { readonly value: JsonValue | undefined } | { readonly fault: string };

function readField(field: Field, text: string): Read {
  if (text.trim() === "") {
    if (!field.isRequired) return { value: undefined };
    return { fault: field.kind === "choice" ? "Choose one." : "Fill this in." };
  }
  switch (field.kind) {
    case "choice":
      return { value: field.choices[Number(text)]?.value };
    case "number":
      return readNumber(field.schema, text);
    case "text":
      return readText(field.schema, text);
    case "json":
      return readJson(field.schema, text);
  }
}

function readNumber(schema: JsonObject, text: string): Read {
  const value = Number(text.trim().replace(/^\+/, ""));
  const isNumber = /^[-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?$/i.test(text.trim()) && Number.isFinite(value);
  if (schema["type"] === "integer" && !(isNumber && Number.isSafeInteger(value))) {
    return { fault: "This is not a whole number." };
  }
  if (!isNumber) return { fault: "This is not a number." };
  const { minimum, maximum, exclusiveMinimum, exclusiveMaximum } = schema;
  if (typeof minimum === "number" && value < minimum) return { fault: `At least ${minimum}.` };
  if (typeof maximum === "number" && value > maximum) return { fault: `At most ${maximum}.` };
  if (typeof exclusiveMinimum === "number" && value <= exclusiveMinimum) {
    return { fault: `More than ${exclusiveMinimum}.` };
  }
  if (typeof exclusiveMaximum === "number" && value >= exclusiveMaximum) {
    return { fault: `Less than ${exclusiveMaximum}.` };
  }
  return { value };
}

function readText(schema: JsonObject, text: string): Read {
  // The server alone checks a pattern: one that takes long to match would block the page.
  const { minLength, maxLength } = schema;
  const length = Array.from(text).length; // in code points, as JSON Schema counts
  if (typeof minLength === "number" && length < minLength) return { fault: `At least ${minLength} characters.` };
  if (typeof maxLength === "number" && length > maxLength) return { fault: `At most ${maxLength} characters.` };
  return { value: text };
}

const TYPES = new Map<string, (value: JsonValue) => boolean>([
  ["array", Array.isArray],
  ["object", isObject],
  ["null", (value) => value === null],
  ["string", (value) => typeof value === "string"],
  ["number", (value) => typeof value === "number"],
  ["integer", (value) => Number.isInteger(value)],
  ["boolean", (value) => typeof value === "boolean"],
]);

function readJson({ type }: JsonObject, text: string): Read {
  let value: JsonValue;
  try {
    value = JSON.parse(text) as JsonValue;
  } catch {
    return { fault: 'This is not JSON, such as {"name": "value"} or [1, 2].' };
  }
  const types = (Array.isArray(type) ? type : [type]) as readonly (JsonValue | undefined)[];
  const known = types.filter((one): one is string => typeof one === "string" && TYPES.has(one));
  if (known.length > 0 && !known.some((one) => TYPES.get(one)?.(value))) {
    return { fault: `Expected JSON of the type ${known.join(" or ")}.` };
  }
  return { value };
}
