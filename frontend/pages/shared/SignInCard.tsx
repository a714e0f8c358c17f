// Signing in: with one click on a developer's own machine, elsewhere with a pasted token.

import { type SyntheticEvent, useState } from "react";
import { AlertIcon, ICON } from "./icons.tsx";
import { ThemeButton } from "./ThemeButton.tsx";
import { DEVELOPER, developerToken, mayBeDeveloper, type SignIn, SignInFailed, userOf } from "./signin.ts";

interface Problem {
  readonly error: string;
  readonly help: string;
}

interface Props {
  readonly onSignIn: (signIn: SignIn) => void;
  /** Why the user has to sign in again. */
  readonly why: Problem | null;
}

export function SignInCard({ onSignIn, why }: Props) {
  const [problem, setProblem] = useState<Problem | null>(why);
  const [user, setUser] = useState(DEVELOPER);
  const [token, setToken] = useState("");
  const [isBusy, setBusy] = useState(false);
  const [offersDeveloper, setOffersDeveloper] = useState(mayBeDeveloper);

  const asDeveloper = async (event: SyntheticEvent) => {
    event.preventDefault();
    const name = user.trim() || DEVELOPER;
    setBusy(true);
    setProblem(null);
    try {
      await developerToken(name);
      onSignIn({ kind: "developer", user: name });
    } catch (error) {
      const known = error instanceof SignInFailed;
      setProblem({
        error: known ? error.message : "The server does not answer.",
        help: known ? error.help : "Check that it is running, and try again.",
      });
      setOffersDeveloper(mayBeDeveloper());
      setBusy(false);
    }
  };
  const withToken = (event: SyntheticEvent) => {
    event.preventDefault();
    const trimmed = token.trim();
    const found = userOf(trimmed);
    if (found === null) {
      setProblem({
        error: "This is no token.",
        help: "A token has three parts with dots between them. `netra-trio token --user alice` prints one.",
      });
      return;
    }
    onSignIn({ kind: "token", user: found, token: trimmed });
  };
  return (
    <main className="sign-in">
      <div className="corner">
        <ThemeButton />
      </div>
      <div className="card">
        <img src={ICON} alt="" width="48" height="48" />
        <h1>Sign in to chat</h1>
        {problem && (
          <div className="problem" role="alert">
            <AlertIcon />
            <p>
              {problem.error} <span className="help">{problem.help}</span>
            </p>
          </div>
        )}
        {offersDeveloper && (
          <form onSubmit={(event) => void asDeveloper(event)}>
            <label htmlFor="user">User name</label>
            <input
              id="user"
              value={user}
              onChange={(event) => setUser(event.target.value)}
              autoComplete="off"
              spellCheck={false}
              maxLength={128}
            />
            <button type="submit" className="primary" disabled={isBusy}>
              Sign in as developer
            </button>
          </form>
        )}
        {offersDeveloper ? (
          <details>
            <summary>Sign in with a token instead</summary>
            <TokenForm token={token} setToken={setToken} onSubmit={withToken} isMain={false} />
          </details>
        ) : (
          <TokenForm token={token} setToken={setToken} onSubmit={withToken} isMain />
        )}
      </div>
    </main>
  );
}

interface TokenFormProps {
  readonly token: string;
  readonly setToken: (token: string) => void;
  readonly onSubmit: (event: SyntheticEvent) => void;
  readonly isMain: boolean;
}

function TokenForm({ token, setToken, onSubmit, isMain }: TokenFormProps) {
  return (
    <form onSubmit={onSubmit}>
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
