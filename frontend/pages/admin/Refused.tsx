// The text for a user without the permission for this page.

import { AlertIcon } from "../shared/icons.tsx";
import type { Problem } from "../shared/problem.ts";

interface Props {
  readonly user: string;
  readonly onSignInAgain: (why: Problem) => void;
}

export function Refused({ user, onSignInAgain }: Props) {
  const error = "This page is for administrators.";
  const help = "Sign in with a token that has the permission netra:admin.";
  return (
    <section className="refused" role="alert">
      <AlertIcon />
      <h2>{error}</h2>
      <p>
        <span dir="auto">{user}</span> is signed in without the permission <code>netra:admin</code>. On the machine of
        the server, this makes a token with it:
      </p>
      <pre tabIndex={0} aria-label="Command">netra-trio token --user {user} --permission netra:admin</pre>
      <button type="button" className="primary" onClick={() => onSignInAgain({ error, help })}>
        Sign in with another token
      </button>
    </section>
  );
}
