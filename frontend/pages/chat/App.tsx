// The sign-in, and the connection of the user who is signed in.

import { useCallback, useEffect, useMemo, useState } from "react";
import { EnhancedWebSocketProvider } from "../../src/react/index.ts";
import { Chat } from "./Chat.tsx";
import { SignInCard } from "../shared/SignInCard.tsx";
import { currentSignIn, forget, hostSignIn, onOtherTab, remember, type SignIn, tokensOf } from "../shared/signin.ts";
import { useThreadId } from "./threads/useThreadId.ts";

/** Examples for the demo agent of a new server. */
const EXAMPLES = [
  "What is 12*(3+4)?",
  "What time is it in New York and Tokyo?",
  "What did I say?",
  "Count slowly",
];
const NONE: readonly string[] = [];

export function App() {
  const [signIn, setSignIn] = useState(currentSignIn);
  const [why, setWhy] = useState<{ error: string; help: string } | null>(null);

  useEffect(() => onOtherTab(() => setSignIn(currentSignIn())), []);

  const enter = useCallback((next: SignIn) => {
    remember(next);
    setWhy(null);
    setSignIn(next);
  }, []);
  const leave = useCallback((reason: { error: string; help: string } | null) => {
    forget();
    setWhy(reason);
    setSignIn(window.netraTrio?.getToken ? currentSignIn() : null);
  }, []);
  const signOut = useCallback(() => leave(null), [leave]);

  if (signIn === null) return <SignInCard onSignIn={enter} why={why} />;
  if (signIn.user === null) return <HostSignIn onSignIn={enter} />;
  return (
    <SignedIn
      key={keyOf(signIn)}
      signIn={signIn}
      user={signIn.user}
      onSignOut={signOut}
      onSignInAgain={leave}
    />
  );
}

/** Waits for the embedding page's token, which names the user. */
function HostSignIn({ onSignIn }: { onSignIn: (signIn: SignIn) => void }) {
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

interface SignedInProps {
  readonly signIn: SignIn;
  readonly user: string;
  readonly onSignOut: () => void;
  readonly onSignInAgain: (why: { readonly error: string; readonly help: string }) => void;
}

function SignedIn({ signIn, user, onSignOut, onSignInAgain }: SignedInProps) {
  const getToken = useMemo(() => tokensOf(signIn), [signIn]);
  const isHost = signIn.kind === "host";
  const threadId = useThreadId();
  return (
    <EnhancedWebSocketProvider getToken={getToken} url={window.netraTrio?.url} threadId={threadId}>
      <Chat
        user={user}
        threadId={threadId}
        examples={signIn.kind === "developer" ? EXAMPLES : NONE}
        onSignOut={isHost ? undefined : onSignOut}
        onSignInAgain={onSignInAgain}
      />
    </EnhancedWebSocketProvider>
  );
}

const keyOf = (signIn: SignIn) =>
  signIn.kind === "token" ? `token ${signIn.token}` : `${signIn.kind} ${signIn.user}`;
