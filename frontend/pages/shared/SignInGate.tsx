// Shows a page to a user who is signed in, and the way to sign in to everybody else.
//
//     const arrival = arrive();
//     <SignInGate arrival={arrival} title="Sign in to chat">
//       {({ signIn, getToken, signOut, signInAgain }) => …}
//     </SignInGate>

import { type ReactNode, useCallback, useEffect, useMemo, useState } from "react";
import { flushSync } from "react-dom";
import { type Arrival, card, goToProvider, type Phase, stored } from "./arrival.ts";
import { HostSignIn } from "./HostSignIn.tsx";
import type { Problem } from "./problem.ts";
import { forget, onOtherTab, remember, type SignIn, storedSignIn, tokensOf } from "./signin.ts";
import { SignInCard } from "./SignInCard.tsx";
import { forgetUser, onSignOut, reportSignOut } from "./userData.ts";

export interface SignedIn {
  readonly signIn: SignIn;
  /** Gives the client a valid token. */
  readonly getToken: () => Promise<string>;
  /** Absent if the embedding page controls the sign-in. */
  readonly signOut: (() => void) | undefined;
  /** The sign-in has ended, or the server refuses it. */
  readonly signInAgain: (why: Problem) => void;
}

interface Props {
  readonly arrival: Arrival;
  readonly title: string;
  readonly children: (signedIn: SignedIn) => ReactNode;
}

export function SignInGate({ arrival, title, children }: Props) {
  const [phase, setPhase] = useState<Phase>(arrival.phase);
  const follow = useCallback((next: Arrival) => {
    setPhase(next.phase);
    void next.next?.then(setPhase);
  }, []);

  useEffect(() => {
    let isStale = false;
    void arrival.next?.then((next) => {
      if (!isStale) setPhase(next);
    });
    return () => {
      isStale = true;
    };
  }, [arrival]);
  useEffect(
    () =>
      onOtherTab(() => {
        // The user has signed in or out in another tab. At a provider each tab has tokens of its own.
        const isSame = phase.at === "signed-in" && phase.signIn.kind === "oidc" && storedSignIn() === "oidc";
        if (!isSame && phase.at !== "host" && phase.at !== "provider") flushSync(() => follow(stored()));
      }),
    [phase, follow],
  );
  useEffect(
    () =>
      onSignOut((user) => {
        // The page of that user is gone by now, and may have stored an unfinished text when it went.
        if (phase.at !== "signed-in" || phase.signIn.user !== user) forgetUser(user);
      }),
    [phase],
  );
  useEffect(() => onShownAgain(() => setPhase((now) => (now.at === "provider" ? card(null) : now))), []);

  const enter = useCallback((signIn: SignIn) => {
    remember(signIn);
    setPhase({ at: "signed-in", signIn });
  }, []);
  const toProvider = useCallback(
    () => follow({ phase: { at: "provider" }, next: goToProvider(false) }),
    [follow],
  );

  switch (phase.at) {
    case "host":
      return <HostSignIn onSignIn={enter} />;
    case "provider":
      return <OnTheWay />;
    case "card":
      return (
        <SignInCard title={title} why={phase.why} ended={phase.ended} onSignIn={enter} onProvider={toProvider} />
      );
    case "signed-in":
      return (
        <Inside key={keyOf(phase.signIn)} signIn={phase.signIn} setPhase={setPhase} onProvider={toProvider}>
          {children}
        </Inside>
      );
  }
}

interface InsideProps {
  readonly signIn: SignIn;
  readonly setPhase: (phase: Phase) => void;
  readonly onProvider: () => void;
  readonly children: (signedIn: SignedIn) => ReactNode;
}

function Inside({ signIn, setPhase, onProvider, children }: InsideProps) {
  const getToken = useMemo(() => tokensOf(signIn), [signIn]);
  const signOut = useCallback(() => {
    forget();
    // At once: what the page stores when it goes is removed too.
    flushSync(() => setPhase(card(null, signIn.kind === "oidc" ? signIn.session : null)));
    forgetUser(signIn.user);
    reportSignOut(signIn.user);
  }, [signIn, setPhase]);
  const signInAgain = useCallback(
    (why: Problem) => {
      if (signIn.kind === "oidc") {
        onProvider();
      } else if (signIn.kind === "host") {
        setPhase({ at: "host" });
      } else {
        forget();
        setPhase(card(why));
      }
    },
    [signIn, setPhase, onProvider],
  );
  return children({ signIn, getToken, signOut: signIn.kind === "host" ? undefined : signOut, signInAgain });
}

function OnTheWay() {
  return (
    <main className="sign-in">
      <p className="note" role="status" aria-label="Sign-in">
        Signing in…
      </p>
    </main>
  );
}

/** A page that is shown again with the browser's Back button is as it was when it was left. */
function onShownAgain(run: () => void): () => void {
  const listen = (event: PageTransitionEvent) => {
    if (event.persisted) run();
  };
  addEventListener("pageshow", listen);
  return () => removeEventListener("pageshow", listen);
}

const keyOf = (signIn: SignIn) => `${signIn.kind} ${signIn.kind === "token" ? signIn.token : signIn.user}`;
