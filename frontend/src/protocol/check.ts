/**
 * Checks of decoded JSON, as strict as the server's: `"5"` is not 5 and `true` is not 1.
 *
 * A check returns the first fault as text with its path, or null. `Shape<T>` requires a check for
 * every field of `T` and knows which fields are optional, so a field without a check does not compile.
 */

export type Check = (value: unknown, path: string) => string | null;

interface Field<Optional extends boolean> {
  readonly check: Check;
  readonly optional: Optional;
}

export type Shape<T> = {
  // An object without fields fits a type of which all fields are optional.
  // eslint-disable-next-line @typescript-eslint/no-generated-empty-object-type
  readonly [K in keyof T]-?: Field<Record<never, never> extends Pick<T, K> ? true : false>;
};

export type Fields = Readonly<Record<string, Field<boolean>>>;

export const must = (check: Check): Field<false> => ({ check, optional: false });
export const may = (check: Check): Field<true> => ({ check, optional: true });

const SHOWN_CHARACTERS = 40; // of a wrong value, in the text of a fault

export function show(value: unknown): string {
  if (Array.isArray(value)) return "an array";
  if (value === undefined) return "nothing";
  if (typeof value === "object" && value !== null) return "an object";
  const text = JSON.stringify(value);
  return text.length > SHOWN_CHARACTERS ? `${text.slice(0, SHOWN_CHARACTERS)}…` : text;
}

const expect = (fits: (value: unknown) => boolean, expected: string): Check => {
  return (value, path) => (fits(value) ? null : `${path}: expected ${expected}, got ${show(value)}`);
};

export const isObject = (value: unknown): value is Record<string, unknown> =>
  typeof value === "object" && value !== null && !Array.isArray(value);

export const text = expect((value) => typeof value === "string", "a string");
export const name = expect((value) => typeof value === "string" && value !== "", "a name");
export const truth = expect((value) => typeof value === "boolean", "true or false");
export const number = expect((value) => typeof value === "number", "a number");
export const notNegative = expect((value) => typeof value === "number" && value >= 0, "a number from 0");
export const anything: Check = () => null;
export const notNull = expect((value) => value !== null, "a value that is not null");
export const anyObject = expect(isObject, "an object");

export const integer = (from: number, to = Number.MAX_SAFE_INTEGER): Check =>
  expect(
    (value) => Number.isSafeInteger(value) && (value as number) >= from && (value as number) <= to,
    to === Number.MAX_SAFE_INTEGER ? `an integer from ${from}` : `an integer from ${from} to ${to}`,
  );

export const matching = (pattern: RegExp, expected: string): Check =>
  expect((value) => typeof value === "string" && pattern.test(value), expected);

export const exactly = (only: boolean): Check => expect((value) => value === only, String(only));

export const oneOf = (names: readonly string[]): Check =>
  expect((value) => names.includes(value as string), `one of ${names.join(", ")}`);

export const eachOf =
  (check: Check): Check =>
  (value, path) => {
    if (!Array.isArray(value)) return `${path}: expected an array, got ${show(value)}`;
    for (const [index, item] of value.entries()) {
      const fault = check(item, `${path}[${index}]`);
      if (fault !== null) return fault;
    }
    return null;
  };

/** An object with these fields; if `closed`, with no others. */
export const object =
  <T>(shape: Shape<T>, closed = false): Check =>
  (value, path) => {
    if (!isObject(value)) return anyObject(value, path);
    const fields: Fields = shape;
    for (const key of Object.keys(fields)) {
      const field = fields[key];
      // An optional field without a value is left out; null is a fault.
      if (field === undefined || (field.optional && !(key in value))) continue;
      if (!(key in value)) return `${path}.${key}: missing`;
      const fault = field.check(value[key], `${path}.${key}`);
      if (fault !== null) return fault;
    }
    const unknown = closed ? Object.keys(value).find((key) => !Object.hasOwn(fields, key)) : undefined;
    return unknown === undefined ? null : `${path}.${unknown}: unknown field`;
  };
