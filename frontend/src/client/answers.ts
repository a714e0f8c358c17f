/**
 * Answers to questions of agents. Each settles once: with the question's outcome, with the server's
 * rejection, or with what the history says.
 *
 * A question accepts one answer. So if an answer arrives and is sent again after a lost connection,
 * the server rejects the second copy. Then the question's outcome decides, not that rejection.
 */

import { localError } from "../core/retry-rules.js";
import { isOutcomeFor, outcomeOf, type Reply } from "../core/questions.js";
import type { Question } from "../core/snapshot.js";
import type { Cancel, Ports } from "../ports.js";
import type { ErrorBody, EventPayloads } from "../protocol/messages.js";
import type { View } from "../store/view.js";
import { RequestError } from "./api.js";
import type { Answer, Asking } from "./requests.js";

const OUTCOME_WITHIN = 5_000; // ms after the rejection of an answer that was sent more than once
/** The outcome of a question of another session may only be in the history, which is polled for it. */
const POLL_AFTER = 2_000; // ms
const POLLS = 3;

interface Waiting {
  readonly questionId: string;
  readonly reply: Reply;
  /** Settles the answer: with the outcome, or with an error. */
  readonly settle: (result: string | ErrorBody) => void;
  /** How often the answer was sent. */
  writes: number;
  /** How often the history was asked for the outcome. */
  polls: number;
  timer: Cancel | null;
}

export class Answers {
  readonly #ports: Pick<Ports, "timers" | "uniqueId">;
  readonly #view: View;
  readonly #owner: Asking;
  readonly #waiting = new Set<Waiting>();

  constructor(ports: Pick<Ports, "timers" | "uniqueId">, view: View, owner: Asking) {
    this.#ports = ports;
    this.#view = view;
    this.#owner = owner;
  }

  /** Resolves to the question's outcome if the reply was accepted; else rejects with `RequestError`. */
  send(questionId: string, reply: Reply): Promise<string> {
    return new Promise((resolve, reject) => {
      const id = this.#owner.uniqueId();
      const waiting: Waiting = {
        questionId,
        reply,
        settle: (result) => {
          this.#waiting.delete(waiting);
          waiting.timer?.();
          this.#owner.forget(id);
          if (typeof result === "string") resolve(result);
          else reject(new RequestError(result));
        },
        writes: 0,
        polls: 0,
        timer: null,
      };
      this.#waiting.add(waiting);
      this.check();
      if (!this.#waiting.has(waiting)) return;
      const payload = { question_id: questionId, ...reply };
      this.#owner.ask(id, { type: "answer", payload, correlation_id: id }, {
        written: () => {
          waiting.writes += 1;
          this.#pollLater(waiting);
        },
        answered: (answer) => this.#answered(waiting, answer),
      });
    });
  }

  /** Settles the answers to questions that are closed in the view. */
  check(): void {
    for (const waiting of this.#waiting) {
      const question = this.#view.question(waiting.questionId);
      if (question !== undefined) this.#closed(waiting, question);
    }
  }

  /** Settles the answers to a question that is closed; its run may be of another session. */
  closed({ question_id, outcome, answer }: EventPayloads["agent_answered"]): void {
    for (const waiting of this.#waiting) {
      if (waiting.questionId === question_id) this.#closed(waiting, { outcome, answer });
    }
  }

  failAll(error: ErrorBody): void {
    for (const { settle } of this.#waiting) settle(error);
  }

  #closed(waiting: Waiting, { outcome, answer }: Pick<Question, "outcome" | "answer">): void {
    if (outcome === null) return;
    const isAccepted = waiting.writes > 0 && isOutcomeFor({ outcome, answer }, waiting.reply);
    waiting.settle(isAccepted ? outcome : this.#tooLate(outcome));
  }

  #answered(waiting: Waiting, { error }: Answer): void {
    if (error === null) {
      waiting.settle(outcomeOf(waiting.reply));
    } else if (error.code !== "ANSWER_REJECTED" || waiting.writes < 2) {
      waiting.settle(error);
    } else {
      this.#after(waiting, OUTCOME_WITHIN, () => waiting.settle(error));
    }
  }

  #pollLater(waiting: Waiting): void {
    if (waiting.polls < POLLS) this.#after(waiting, POLL_AFTER, () => this.#poll(waiting));
  }

  /** Asks for the history, which has the outcome of a closed question. */
  #poll(waiting: Waiting): void {
    const runId = this.#view.question(waiting.questionId)?.run_id ?? "";
    const thread_id = this.#view.run(runId)?.thread_id;
    if (thread_id == null) return;
    waiting.polls += 1;
    const id = this.#owner.uniqueId();
    this.#owner.ask(id, { type: "get_thread_history", payload: { thread_id }, correlation_id: id }, {
      written: () => undefined,
      // If the question is closed, the page of history has settled the answer by now.
      answered: () => {
        if (this.#waiting.has(waiting)) this.#pollLater(waiting);
      },
    });
  }

  #after(waiting: Waiting, ms: number, run: () => void): void {
    waiting.timer?.();
    waiting.timer = this.#ports.timers.setTimeout(run, ms);
  }

  #tooLate(outcome: string): ErrorBody {
    const text = `The question is closed already; its outcome: ${outcome}.`;
    return localError(this.#ports.timers.now(), "ANSWER_REJECTED", text, "See its outcome.");
  }
}
