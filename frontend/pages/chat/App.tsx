// The sign-in, and the connection of the user who is signed in.

import { useCallback } from "react";
import { EnhancedWebSocketProvider } from "../../src/react/index.ts";
import type { Arrival } from "../shared/arrival.ts";
import { type SignedIn, SignInGate } from "../shared/SignInGate.tsx";
import { useFocusKept } from "../shared/useFocusKept.ts";
import { Chat } from "./Chat.tsx";
import { forgetAllUnsent } from "./composer/unsent.ts";
import { drafts } from "./composer/useDraft.ts";
import { useThreadId } from "./threads/useThreadId.ts";

const FOCUS_HOME = ".composer textarea, .card input, .card button";

export function App({ arrival }: { readonly arrival: Arrival }) {
  useFocusKept(FOCUS_HOME);
  return (
    <SignInGate arrival={arrival} title="Sign in to chat">
      {(signedIn) => <ConnectedChat {...signedIn} />}
    </SignInGate>
  );
}

function ConnectedChat({ signIn, getToken, signOut, signInAgain }: SignedIn) {
  const { user } = signIn;
  const threadId = useThreadId();
  const leave = useCallback(() => {
    // The next user of this browser must not find them.
    drafts.forget(user);
    forgetAllUnsent(user);
    signOut?.();
  }, [user, signOut]);
  return (
    <EnhancedWebSocketProvider getToken={getToken} url={window.netraTrio?.url} threadId={threadId}>
      <Chat
        user={user}
        threadId={threadId}
        onSignOut={signOut && leave}
        onSignInAgain={signInAgain}
      />
    </EnhancedWebSocketProvider>
  );
}
