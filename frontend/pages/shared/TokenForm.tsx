// Signing in with a pasted token.

import { type SyntheticEvent, useState } from "react";
import { userOf } from "./claims.ts";
import type { Problem } from "./problem.ts";
import type { SignIn } from "./signin.ts";

interface Props {
  readonly isMain: boolean;
  readonly onSignIn: (signIn: SignIn) => void;
  readonly onProblem: (problem: Problem) => void;
}

export function TokenForm({ isMain, onSignIn, onProblem }: Props) {
  const [token, setToken] = useState("");
  const submit = (event: SyntheticEvent) => {
    event.preventDefault();
    const trimmed = token.trim();
    const user = userOf(trimmed);
    if (user === null) {
      const help = "A token has three parts with dots between them. The people who run this page can give you one.";
      onProblem({ error: "This is no token.", help });
    } else {
      onSignIn({ kind: "token", user, token: trimmed });
    }
  };
  return (
    <form onSubmit={submit}>
      <label htmlFor="token">Token</label>
      <textarea
        id="token"
        className="token"
        rows={4}
        value={token}
        onChange={(event) => setToken(event.target.value)}
        autoComplete="off"
        spellCheck={false}
        placeholder="eyJhbGci…"
      />
      <p className="note">It is stored in this tab only, until you close the tab.</p>
      <button type="submit" className={isMain ? "primary" : "secondary"} disabled={!token.trim()}>
        Sign in with token
      </button>
    </form>
  );
}
