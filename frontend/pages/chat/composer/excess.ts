// How much of a message is too much.

import type { ErrorBody } from "../../../src/index.ts";
import { explain } from "../../shared/errorText.ts";

type Check = (content: string) => ErrorBody | null;

const isTooLarge = (error: ErrorBody | null) => error?.code === "MESSAGE_TOO_LARGE";

/** The number of characters that a message has to be shorter, found by the check itself; 0 if it fits. */
export function excess(content: string, check: Check): number {
  if (!isTooLarge(check(content))) return 0;
  const characters = Array.from(content);
  let [fits, beyond] = [0, characters.length];
  while (beyond - fits > 1) {
    const middle = (fits + beyond) >> 1;
    if (isTooLarge(check(characters.slice(0, middle).join("")))) beyond = middle;
    else fits = middle;
  }
  return characters.length - fits;
}

/** Why a message cannot be sent, for its author. */
export function faultText(content: string, error: ErrorBody, check: Check): string {
  const { text, help } = explain(error);
  if (!isTooLarge(error)) return `${text} ${help}`.trim();
  const over = excess(content, check);
  const characters = over === 1 ? "character" : "characters";
  return `This message is too long by ${over.toLocaleString("en")} ${characters}. ${help}`;
}
