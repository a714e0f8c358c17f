// The sign-in, and the connection of the user who is signed in.

import { EnhancedWebSocketProvider } from "../../src/react/index.ts";
import type { Arrival } from "../shared/arrival.ts";
import { type SignedIn, SignInGate } from "../shared/SignInGate.tsx";
import { nameOf } from "../shared/signin.ts";
import { useFocusKept } from "../shared/useFocusKept.ts";
import { Chat } from "./Chat.tsx";
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
  const threadId = useThreadId();
  return (
    <EnhancedWebSocketProvider getToken={getToken} url={window.netraTrio?.url} threadId={threadId}>
      <Chat
        user={signIn.user}
        name={nameOf(signIn)}
        threadId={threadId}
        onSignOut={signOut}
        onSignInAgain={signInAgain}
      />
    </EnhancedWebSocketProvider>
  );
}
