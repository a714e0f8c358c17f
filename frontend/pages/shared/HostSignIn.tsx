// Waits for the embedding page's token, which names the user.

import { useEffect, useState } from "react";
import { hostSignIn, type SignIn } from "./signin.ts";

export function HostSignIn({ onSignIn }: { onSignIn: (signIn: SignIn) => void }) {
  const [attempt, setAttempt] = useState(0);
  const [failed, setFailed] = useState(-1);
  useEffect(() => {
    hostSignIn().then(onSignIn, () => setFailed(attempt));
  }, [onSignIn, attempt]);
  if (failed !== attempt) return null;
  return (
    <main className="sign-in">
      <div className="card" role="alert">
        <h1>Nobody is signed in</h1>
        <p>This page got no token from your login. Sign in there, then try again.</p>
        <button type="button" className="primary" onClick={() => setAttempt(attempt + 1)}>
          Try again
        </button>
      </div>
    </main>
  );
}
