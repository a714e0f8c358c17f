/**
 * The parts of an answer in the order in which they happened: its text, thoughts, tools, files and
 * questions.
 *
 * The text of a run grows with each delta, its parts do not: the last part of a text is open.
 */

import type { HistoryStep } from "../protocol/messages.js";
import type { Run, RunPart } from "./snapshot.js";

/** A thought, a tool, a file or a question. */
export type StepPart = Exclude<RunPart, { readonly type: "text" }>;

/** A step, and the length of the text before it, in UTF-16 units. */
export interface Place {
  readonly at: number;
  readonly part: StepPart;
}

type Parts = readonly RunPart[];

/** The text of one part of an answer. */
export const partText = (text: string, { from, to }: RunPart & { readonly type: "text" }): string =>
  text.slice(from, to ?? undefined);

/** The parts once text follows behind the first `length` units: the same array while text follows text. */
export function beforeText(parts: Parts, length: number): Parts {
  return parts.at(-1)?.type === "text" ? parts : [...parts, { type: "text", from: length, to: null }];
}

/** The parts with a step behind the first `length` units of the text. A known step is not added again. */
export function withStep(parts: Parts, step: StepPart, length: number): Parts {
  if (parts.some((part) => isSameStep(part, step))) return parts;
  const last = parts.at(-1);
  if (last?.type !== "text") return [...parts, step];
  return [...parts.slice(0, -1), { ...last, to: length }, step];
}

/** Each step with its place in the text. */
export function placesOf(parts: Parts): readonly Place[] {
  const places: Place[] = [];
  let at = 0;
  for (const part of parts) {
    if (part.type === "text") at = part.to ?? part.from;
    else places.push({ at, part });
  }
  return places;
}

/** The parts of a text of `length` units with these steps, which are in order. */
export function partsAt(places: readonly Place[], length: number): Parts {
  const parts: RunPart[] = [];
  let done = 0;
  for (const { at, part } of places) {
    const until = Math.min(at, length);
    if (until > done) parts.push({ type: "text", from: done, to: until });
    done = Math.max(done, until);
    parts.push(part);
  }
  if (done < length) parts.push({ type: "text", from: done, to: null });
  return parts;
}

/** The steps of a history or a resume, at their places in its text. */
export function placesOfSteps(steps: readonly HistoryStep[], text: string): readonly Place[] {
  const units = unitsOf(text);
  const places: Place[] = [];
  let thoughts = 0;
  for (const step of steps) {
    const at = units(step.at);
    if (step.type === "thought" && step.thought !== undefined) {
      places.push({ at, part: { type: "thought", index: thoughts } });
      thoughts += 1;
    } else if (step.type === "tool" && step.tool_call_id !== undefined && step.tool_name !== undefined) {
      places.push({ at, part: { type: "tool", tool_call_id: step.tool_call_id } });
    } else if (step.type === "question" && step.question_id !== undefined) {
      places.push({ at, part: { type: "question", question_id: step.question_id } });
    }
  }
  return places;
}

/** The places of a report, completed by steps that only this client knows: the report may be shortened. */
export function mergedPlaces(reported: readonly Place[], known: readonly Place[]): readonly Place[] {
  const rest = known.filter(({ part }) => !reported.some((place) => isSameStep(place.part, part)));
  if (rest.length === 0) return reported;
  return [...reported, ...rest].sort((a, b) => a.at - b.at);
}

/** Where a run has received its files: a history lists them without their places. */
export const filePlaces = (run: Run | undefined): readonly Place[] =>
  placesOf(run?.parts ?? []).filter(({ part }) => part.type === "file");

/** The run with a part for each of its questions: one that has none yet was asked last. */
export function withQuestionParts(run: Run): Run {
  const add = (parts: Parts, { question_id }: Run["questions"][number]): Parts =>
    withStep(parts, { type: "question", question_id }, run.text.length);
  const parts = run.questions.reduce(add, run.parts);
  return parts === run.parts ? run : { ...run, parts };
}

function isSameStep(part: RunPart, step: StepPart): boolean {
  if (part.type === "thought") return step.type === "thought" && part.index === step.index;
  if (part.type === "tool") return step.type === "tool" && part.tool_call_id === step.tool_call_id;
  if (part.type === "file") return step.type === "file" && part.file_id === step.file_id;
  return part.type === "question" && step.type === "question" && part.question_id === step.question_id;
}

/** A function that converts numbers of characters to UTF-16 units; the numbers must not decrease. */
function unitsOf(text: string): (characters: number) => number {
  let counted = 0;
  let units = 0;
  return (characters) => {
    for (; counted < characters && units < text.length; counted += 1) {
      units += (text.codePointAt(units) ?? 0) > 0xffff ? 2 : 1;
    }
    return units;
  };
}
