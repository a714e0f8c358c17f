// The sign-in of the operator, and the connection.

import { EnhancedWebSocketProvider } from "../../src/react/index.ts";
import type { Arrival } from "../shared/arrival.ts";
import { type SignedIn, SignInGate } from "../shared/SignInGate.tsx";
import { nameOf } from "../shared/signin.ts";
import { useFocusKept } from "../shared/useFocusKept.ts";
import { LivePage } from "./LivePage.tsx";

const FOCUS_HOME = ".content input, .content button, .card input, .card button";

export function App({ arrival }: { readonly arrival: Arrival }) {
  useFocusKept(FOCUS_HOME);
  return (
    <SignInGate arrival={arrival} title="Sign in to the live page">
      {(signedIn) => <ConnectedPage {...signedIn} />}
    </SignInGate>
  );
}

function ConnectedPage({ signIn, getToken, signOut, signInAgain }: SignedIn) {
  // A connection of its own: a chat in another tab may belong to another user.
  return (
    <EnhancedWebSocketProvider getToken={getToken} shareAcrossTabs={false}>
      <LivePage
        user={signIn.user}
        name={nameOf(signIn)}
        getToken={getToken}
        onSignOut={signOut}
        onSignInAgain={signInAgain}
      />
    </EnhancedWebSocketProvider>
  );
}
