// The parts of an answer in order: text, thoughts, tools and questions. Only the text behind the last
// step renders while text arrives.

import { memo, type ReactNode, useCallback, useRef, useState } from "react";
import type { ErrorBody, Run, RunPart } from "../../../src/index.ts";
import { isOpen } from "../../../src/index.ts";
import { useRun } from "../../../src/react/index.ts";
import { Markdown } from "../markdown/Markdown.tsx";
import { ClosedQuestion, OpenQuestion } from "../questions/Questions.tsx";
import { type Arrangement, type StepPart, arrange } from "./arrange.ts";
import { resultOf } from "./result.ts";
import { Thoughts } from "./Thoughts.tsx";
import { Tool } from "./Tool.tsx";

const NONE: readonly RunPart[] = [];

interface AnswerProps {
  readonly runId: string | null;
  /** Of an answer without a run. */
  readonly text: string;
  readonly isLive: boolean;
}

export function Answer({ runId, text, isLive }: AnswerProps) {
  const run = useRun(runId);
  const shown = run === undefined ? text : run.text || resultOf(run);
  const parts = run?.parts ?? NONE;
  const { blocks, tail } = useArrangement(shown, parts);
  const rest = tail === 0 ? shown : shown.slice(tail);
  const hasRest = rest.trim() !== "";
  // The text goes on before the last steps if these are shown behind a block that is not complete.
  const isWriting = isLive && parts.at(-1)?.type === "text";
  const lastText = hasRest ? -1 : blocks.findLastIndex(({ type }) => type === "text");
  return (
    <>
      {blocks.map((block, index) => {
        if (block.type === "text") {
          return <Markdown key={`text ${block.from}`} text={block.text} isWriting={isWriting && index === lastText} />;
        }
        const isLast = isLive && !isWriting && index === blocks.length - 1;
        const key = `steps ${nameOf(block.steps[0])}`;
        return run && <Steps key={key} {...stepsOf(run)} parts={block.steps} isLast={isLast} />;
      })}
      {hasRest && <Markdown key={`text ${tail}`} text={rest} isWriting={isWriting || (isLive && run === undefined)} />}
      {isLive && !shown && !run?.questions.some(isOpen) && <span className="dots" aria-hidden="true" />}
    </>
  );
}

/** The arrangement, computed again for new text only while that can move a step. */
function useArrangement(text: string, parts: readonly RunPart[]): Arrangement {
  const [memory] = useState(() => new Memory());
  return memory.arrange(text, parts);
}

class Memory {
  #last: { readonly parts: readonly RunPart[]; readonly value: Arrangement } | null = null;

  arrange(text: string, parts: readonly RunPart[]): Arrangement {
    const last = this.#last;
    if (last?.parts === parts && last.value.isSettled) return last.value;
    this.#last = { parts, value: arrange(text, parts) };
    return this.#last.value;
  }
}

interface StepsProps extends Pick<Run, "thoughts" | "tools" | "questions"> {
  readonly parts: readonly StepPart[];
  /** The run goes on here. */
  readonly isLast: boolean;
}

const stepsOf = ({ thoughts, tools, questions }: Run) => ({ thoughts, tools, questions });

const nameOf = (part: StepPart | undefined): string => {
  if (part?.type === "thought") return `thought ${part.index}`;
  return part?.type === "tool" ? part.tool_call_id : (part?.question_id ?? "");
};

/** Neighbouring steps: thoughts in a row are one line, tools and closed questions in a row are one list. */
const Steps = memo(function Steps({ parts, thoughts, tools, questions, isLast }: StepsProps) {
  const focused = useRef<string | null>(null);
  const [problems, setProblems] = useState<Readonly<Record<string, ErrorBody | undefined>>>({});
  const onProblem = useCallback(
    (id: string, problem: ErrorBody | undefined) => setProblems((all) => ({ ...all, [id]: problem })),
    [],
  );
  const groups: { readonly kind: "thoughts" | "cards" | "open"; readonly parts: StepPart[] }[] = [];
  const question = (part: StepPart) =>
    part.type === "question" ? questions.find(({ question_id }) => question_id === part.question_id) : undefined;
  for (const part of parts) {
    const found = question(part);
    // A long question of an interrupted page is known once the history is loaded.
    if (part.type === "question" && found === undefined) continue;
    const kind = part.type === "thought" ? "thoughts" : found !== undefined && isOpen(found) ? "open" : "cards";
    const before = groups.at(-1);
    if (before?.kind === kind && kind !== "open") before.parts.push(part);
    else groups.push({ kind, parts: [part] });
  }
  const card = (part: StepPart): ReactNode => {
    if (part.type === "tool") {
      const tool = tools.find(({ tool_call_id }) => tool_call_id === part.tool_call_id);
      return tool && <Tool key={nameOf(part)} tool={tool} />;
    }
    const asked = question(part);
    if (asked === undefined) return null;
    return <ClosedQuestion key={nameOf(part)} question={asked} focused={focused} problem={problems[asked.question_id]} />;
  };
  return groups.map((group, index) => {
    const [first] = group.parts;
    const key = `${group.kind} ${nameOf(first)}`;
    if (group.kind === "thoughts") {
      const shown = group.parts.flatMap((part) => (part.type === "thought" ? (thoughts[part.index] ?? []) : []));
      return <Thoughts key={key} thoughts={shown} isLast={isLast && index === groups.length - 1} />;
    }
    if (group.kind === "cards") {
      return (
        <ul key={key} className="tools" aria-label={labelOf(group.parts)}>
          {group.parts.map(card)}
        </ul>
      );
    }
    const asked = first && question(first);
    return (
      asked && (
        <OpenQuestion
          key={key}
          question={asked}
          focused={focused}
          problem={problems[asked.question_id]}
          onProblem={onProblem}
        />
      )
    );
  });
});

const labelOf = (parts: readonly StepPart[]): string =>
  parts.every(({ type }) => type === "question") ? "Questions" : "Tools";
