// The inputs for an answer, made from its JSON Schema.

import { type KeyboardEvent, type SyntheticEvent, useId, useMemo, useRef, useState } from "react";
import type { JsonObject, JsonValue } from "../../../src/index.ts";
import { isComposing } from "../../shared/keys.ts";
import { type Faults, type Field, formOf, initialTexts, readForm } from "./schema.ts";

interface Props {
  readonly schema: JsonObject | null;
  readonly isBusy: boolean;
  readonly onAnswer: (answer: JsonValue) => void;
}

const RADIOS = 4; // choices that are shown as radio buttons; more are shown as a select box
const NO_FAULTS: Faults = new Map();

export function QuestionForm({ schema, isBusy, onAnswer }: Props) {
  const form = useMemo(() => formOf(schema), [schema]);
  const [texts, setTexts] = useState(() => initialTexts(form));
  const [faults, setFaults] = useState(NO_FAULTS);
  const element = useRef<HTMLFormElement>(null);

  const submit = (event: SyntheticEvent) => {
    event.preventDefault();
    if (isBusy) return;
    const reading = readForm(form, texts);
    setFaults(reading.ok ? NO_FAULTS : reading.faults);
    if (reading.ok) {
      onAnswer(reading.answer);
      return;
    }
    const wrong = form.fields.findIndex(({ name }) => reading.faults.has(name));
    element.current?.querySelectorAll<HTMLElement>(".field")[wrong]?.querySelector<HTMLElement>(INPUTS)?.focus();
  };
  // Safari would submit the form with the Enter that ends a composition.
  const onKeyDown = (event: KeyboardEvent) => {
    const isInput = event.target instanceof HTMLInputElement;
    if (event.key === "Enter" && isInput && isComposing(event.nativeEvent)) event.preventDefault();
  };
  return (
    // Without the browser's validation: the page shows each error at its field.
    <form ref={element} onSubmit={submit} onKeyDown={onKeyDown} noValidate>
      {form.fields.map((field) => (
        <FieldInput
          key={field.name}
          field={field}
          text={texts[field.name] ?? ""}
          fault={faults.get(field.name)}
          onChange={(text) => setTexts((all) => ({ ...all, [field.name]: text }))}
        />
      ))}
      <div className="buttons">
        <button type="submit" className="primary" aria-disabled={isBusy}>
          Answer
        </button>
      </div>
    </form>
  );
}

const INPUTS = "input, select, textarea";
const TYPES = new Map<JsonValue | undefined, string>([
  ["email", "email"],
  ["uri", "url"],
  ["date", "date"],
]);
const LONG_TEXT = 100; // characters: beyond that a text gets several lines

interface FieldProps {
  readonly field: Field;
  readonly text: string;
  readonly fault: string | undefined;
  readonly onChange: (text: string) => void;
}

function FieldInput({ field, text, fault, onChange }: FieldProps) {
  const id = useId();
  const { kind, help, isRequired, choices } = field;
  const label = isRequired ? field.label : `${field.label} (optional)`;
  const described = [help && `${id}-help`, fault && `${id}-fault`].filter(Boolean).join(" ") || undefined;
  const shared = {
    value: text,
    dir: "auto",
    "aria-invalid": fault !== undefined,
    "aria-describedby": described,
    "aria-required": isRequired,
    onChange: (event: { target: { value: string } }) => onChange(event.target.value),
  };
  const notes = (
    <>
      {help && <p className="note" id={`${id}-help`} dir="auto">{help}</p>}
      {fault && <p className="fault" id={`${id}-fault`} role="alert">{fault}</p>}
    </>
  );
  if (kind === "choice" && isRequired && choices.length <= RADIOS) {
    return (
      <fieldset role="radiogroup" className="field" aria-required aria-describedby={described} aria-invalid={fault !== undefined}>
        <legend dir="auto">{label}</legend>
        <div className="radios">
          {choices.map((choice, index) => (
            <label key={index}>
              <input
                type="radio"
                name={id}
                value={index}
                checked={text === `${index}`}
                onChange={shared.onChange}
              />
              {choice.label}
            </label>
          ))}
        </div>
        {notes}
      </fieldset>
    );
  }
  return (
    <div className="field">
      <label htmlFor={id} dir="auto">{label}</label>
      {kind === "choice" && (
        <select id={id} {...shared}>
          <option value="">{isRequired ? "Choose…" : "None"}</option>
          {choices.map((choice, index) => (
            <option key={index} value={index}>{choice.label}</option>
          ))}
        </select>
      )}
      {kind === "number" && (
        <input id={id} inputMode={field.schema["type"] === "integer" ? "numeric" : "decimal"} autoComplete="off" {...shared} />
      )}
      {kind === "text" && isLong(field) && <textarea id={id} rows={2} {...shared} />}
      {kind === "text" && !isLong(field) && (
        <input id={id} type={TYPES.get(field.schema["format"]) ?? "text"} autoComplete="off" {...shared} />
      )}
      {kind === "json" && (
        <textarea id={id} className="json" rows={4} spellCheck={false} placeholder="JSON" {...shared} />
      )}
      {notes}
    </div>
  );
}

function isLong({ name, schema: { format, maxLength } }: Field): boolean {
  if (format !== undefined) return false;
  const expected = name === "" ? Infinity : 0;
  return (typeof maxLength === "number" ? maxLength : expected) > LONG_TEXT;
}
