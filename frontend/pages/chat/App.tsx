// The sign-in, and the connection of the user who is signed in.

import { EnhancedWebSocketProvider } from "../../src/react/index.ts";
import type { Arrival } from "../shared/arrival.ts";
import { type SignedIn, SignInGate } from "../shared/SignInGate.tsx";
import { Chat } from "./Chat.tsx";
import { useThreadId } from "./threads/useThreadId.ts";

/** Examples for the demo agent of a new server. */
const EXAMPLES = [
  "What is 12*(3+4)?",
  "What time is it in New York and Tokyo?",
  "What did I say?",
  "Count slowly",
];
const NONE: readonly string[] = [];

export function App({ arrival }: { readonly arrival: Arrival }) {
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
        threadId={threadId}
        examples={signIn.kind === "developer" ? EXAMPLES : NONE}
        onSignOut={signOut}
        onSignInAgain={signInAgain}
      />
    </EnhancedWebSocketProvider>
  );
}
