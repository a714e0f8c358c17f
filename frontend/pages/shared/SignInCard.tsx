// Signing in: at the server's provider, with one click on a developer's own machine, or with a pasted token.

import { type ReactNode, useEffect, useState } from "react";
import { DeveloperForm } from "./DeveloperForm.tsx";
import { AlertIcon, ICON } from "./icons.tsx";
import { currentConfig, type OidcConfig } from "./oidc/config.ts";
import type { OidcSession } from "./oidc/session.ts";
import type { Problem } from "./problem.ts";
import { ProviderSignIn } from "./ProviderSignIn.tsx";
import { mayBeDeveloper, type SignIn } from "./signin.ts";
import { ThemeButton } from "./ThemeButton.tsx";
import { TokenForm } from "./TokenForm.tsx";

interface Props {
  readonly title: string;
  /** Why the user has to sign in again. */
  readonly why: Problem | null;
  /** The session at the provider that the user has just signed out of. */
  readonly ended: OidcSession | null;
  readonly onSignIn: (signIn: SignIn) => void;
  /** Go to the provider. */
  readonly onProvider: () => void;
}

export function SignInCard({ title, why, ended, onSignIn, onProvider }: Props) {
  const [problem, setProblem] = useState<Problem | null>(why);
  const [offersDeveloper, setOffersDeveloper] = useState(mayBeDeveloper);
  const config = useConfig();
  if (config === undefined) return <main className="sign-in" />;

  const forms: { name: string; form: (isMain: boolean) => ReactNode }[] = [
    {
      name: "with a token",
      form: (isMain) => <TokenForm isMain={isMain} onSignIn={onSignIn} onProblem={setProblem} />,
    },
  ];
  const developed = (found: Problem | null) => {
    setProblem(found);
    setOffersDeveloper(mayBeDeveloper());
  };
  if (offersDeveloper) {
    const form = (isMain: boolean) => <DeveloperForm isMain={isMain} onSignIn={onSignIn} onProblem={developed} />;
    forms.unshift({ name: "as developer", form });
  }
  const main = config === null ? forms.shift() : undefined;
  return (
    <main className="sign-in">
      <div className="corner">
        <ThemeButton />
      </div>
      <div className="card">
        <img src={ICON} alt="" width="48" height="48" />
        <h1>{title}</h1>
        {problem && (
          <div className="problem" role="alert">
            <AlertIcon />
            <p>
              {problem.error} <span className="help">{problem.help}</span>
            </p>
          </div>
        )}
        {config && (
          <ProviderSignIn config={config} hasFailed={why !== null} ended={ended} onProvider={onProvider} />
        )}
        {main?.form(true)}
        {forms.map(({ name, form }) => (
          <details key={name}>
            <summary>Sign in {name} instead</summary>
            {form(false)}
          </details>
        ))}
      </div>
    </main>
  );
}

/** The provider of the server; null if there is none, undefined until that is known. */
function useConfig(): OidcConfig | null | undefined {
  const [config, setConfig] = useState<OidcConfig | null>();
  useEffect(() => {
    currentConfig().then(setConfig, () => setConfig(null));
  }, []);
  return config;
}
