/**
 * Answers to questions of agents. Each settles once, however the tab learns of it: by the question's
 * outcome, by the server's rejection, or by the history.
 *
 * A question takes one answer. So an answer that is sent again, because the connection was lost, is
 * rejected if the first one arrived: then the question's outcome decides, not the rejection.
 */

import { localError } from "../core/retry-rules.js";
import { isTaken, outcomeOf, type Reply } from "../core/questions.js";
import type { Question } from "../core/snapshot.js";
import type { Cancel, Ports } from "../ports.js";
import type { ErrorBody, EventPayloads } from "../protocol/messages.js";
import type { View } from "../store/view.js";
import { RequestError } from "./api.js";
import type { Answer, Asking } from "./requests.js";

const OUTCOME_WITHIN = 5_000; // ms after the rejection of an answer that was sent more than once
const LOOK_AFTER = 2_000; // ms: the outcome in a run of another session may be in the history only
const LOOKS = 3;

interface Waiting {
  readonly questionId: string;
  readonly reply: Reply;
  /** Settles the answer: with the outcome, or with an error. */
  readonly settle: (result: string | ErrorBody) => void;
  /** How often it was written. */
  writes: number;
  looks: number;
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

  /** Resolves to the question's outcome if the reply was taken; rejects with `RequestError`. */
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
        looks: 0,
        timer: null,
      };
      this.#waiting.add(waiting);
      this.check();
      if (!this.#waiting.has(waiting)) return;
      const payload = { question_id: questionId, ...reply };
      this.#owner.ask(id, { type: "answer", payload, correlation_id: id }, {
        written: () => {
          waiting.writes += 1;
          this.#lookLater(waiting);
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
    const isWon = waiting.writes > 0 && isTaken({ outcome, answer }, waiting.reply);
    waiting.settle(isWon ? outcome : this.#tooLate(outcome));
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

  #lookLater(waiting: Waiting): void {
    if (waiting.looks < LOOKS) this.#after(waiting, LOOK_AFTER, () => this.#look(waiting));
  }

  /** Asks for the outcome. */
  #look(waiting: Waiting): void {
    const runId = this.#view.question(waiting.questionId)?.run_id ?? "";
    const thread_id = this.#view.run(runId)?.thread_id;
    if (thread_id == null) return;
    waiting.looks += 1;
    const id = this.#owner.uniqueId();
    this.#owner.ask(id, { type: "get_thread_history", payload: { thread_id }, correlation_id: id }, {
      written: () => undefined,
      // The page has the outcome, and settles the answer, unless the question is still open.
      answered: () => {
        if (this.#waiting.has(waiting)) this.#lookLater(waiting);
      },
    });
  }

  #after(waiting: Waiting, ms: number, run: () => void): void {
    waiting.timer?.();
    waiting.timer = this.#ports.timers.setTimeout(run, ms);
  }

  #tooLate(outcome: string): ErrorBody {
    const text = `The question takes no answer any more; its outcome: ${outcome}.`;
    return localError(this.#ports.timers.now(), "ANSWER_REJECTED", text, "Look at how it ended.");
  }
}
