// Signing in with one click, on a developer's own machine.

import { type SyntheticEvent, useState } from "react";
import { type Problem, SignInFailed } from "./problem.ts";
import { DEVELOPER, developerToken, type SignIn } from "./signin.ts";

const SILENCE: Problem = {
  error: "The server does not answer.",
  help: "Check that it is running, and try again.",
};

interface Props {
  readonly isMain: boolean;
  readonly onSignIn: (signIn: SignIn) => void;
  readonly onProblem: (problem: Problem | null) => void;
}

export function DeveloperForm({ isMain, onSignIn, onProblem }: Props) {
  const [user, setUser] = useState(DEVELOPER);
  const [isBusy, setBusy] = useState(false);
  const submit = async (event: SyntheticEvent) => {
    event.preventDefault();
    const name = user.trim() || DEVELOPER;
    setBusy(true);
    onProblem(null);
    try {
      await developerToken(name);
      onSignIn({ kind: "developer", user: name });
    } catch (error) {
      setBusy(false);
      onProblem(error instanceof SignInFailed ? error : SILENCE);
    }
  };
  return (
    <form onSubmit={(event) => void submit(event)}>
      <label htmlFor="user">User name</label>
      <input
        id="user"
        value={user}
        onChange={(event) => setUser(event.target.value)}
        autoComplete="off"
        spellCheck={false}
        maxLength={128}
      />
      <button type="submit" className={isMain ? "primary" : "secondary"} disabled={isBusy}>
        Sign in as developer
      </button>
    </form>
  );
}
