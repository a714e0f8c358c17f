// Texts for a sign-in that did not succeed.

import * as oauth from "oauth4webapi";
import { type Problem, SignInFailed } from "../problem.ts";

const AGAIN = "Please try again. If it fails again, tell the people who run this page.";

/** Answers to a silent request that only mean that the user has to act. */
const NEEDS_USER = new Set([
  "login_required",
  "interaction_required",
  "consent_required",
  "account_selection_required",
]);

/** Whether a silent sign-in only needs the user, which is no problem to report. */
export const needsUser = (error: unknown): boolean =>
  error instanceof oauth.AuthorizationResponseError && NEEDS_USER.has(error.error);

const TROUBLE: Problem = {
  error: "The sign-in service has a problem.",
  help: "Please try again in a moment.",
};

export const OUTDATED = new SignInFailed(
  "This sign-in is no longer valid.",
  "It was begun some time ago, or in another tab. Please try again.",
);

/** The code that the library gives its errors; undefined for others. */
export const codeOf = (error: unknown): unknown => (error instanceof Error && "code" in error ? error.code : undefined);

/** Whether there was no answer: then `fetch` rejects with a TypeError, which has no code. */
export const isSilence = (error: unknown): boolean => error instanceof TypeError && codeOf(error) === undefined;

export function problemOf(error: unknown): Problem {
  if (error instanceof SignInFailed) return error;
  if (error instanceof oauth.AuthorizationResponseError) return ofAnswer(error.error);
  if (error instanceof oauth.ResponseBodyError) {
    return error.error === "invalid_grant" ? OUTDATED : ofAnswer(error.error);
  }
  const code = codeOf(error);
  if (code === oauth.JWT_TIMESTAMP_CHECK) {
    return {
      error: "The clock of this device differs from that of the sign-in service.",
      help: "Set the clock, and try again.",
    };
  }
  if (code === oauth.RESPONSE_IS_NOT_CONFORM) return TROUBLE;
  if (isSilence(error) || (error instanceof DOMException && error.name === "TimeoutError")) {
    return {
      error: "The sign-in service does not answer.",
      help: "Check your connection, and try again in a moment.",
    };
  }
  console.warn("The sign-in failed.", error);
  return { error: "The sign-in failed.", help: AGAIN };
}

function ofAnswer(code: string): Problem {
  switch (code) {
    case "access_denied":
      return { error: "You are not signed in.", help: "The sign-in was cancelled, or access was not allowed." };
    case "server_error":
    case "temporarily_unavailable":
      return TROUBLE;
    default:
      return { error: "The sign-in service refused the request.", help: `${AGAIN} The reason is “${code}”.` };
  }
}
