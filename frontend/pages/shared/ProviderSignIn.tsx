// Signing in at the OpenID Connect provider, and signing out there.

import type { OidcConfig } from "./oidc/config.ts";
import type { OidcSession } from "./oidc/session.ts";

interface Props {
  readonly config: OidcConfig;
  readonly hasFailed: boolean;
  /** The session that the user has just signed out of. */
  readonly ended: OidcSession | null;
  readonly onProvider: () => void;
}

export function ProviderSignIn({ config, hasFailed, ended, onProvider }: Props) {
  const { host } = new URL(config.issuer);
  const logoutAddress = ended?.logoutAddress ?? null;
  return (
    <div className="provider">
      <button type="button" className="primary" autoFocus={hasFailed || ended !== null} onClick={onProvider}>
        {hasFailed ? "Try again" : "Sign in"}
      </button>
      {logoutAddress === null ? (
        <p className="note">You sign in at {host}.</p>
      ) : (
        <>
          <p className="note" role="status" aria-label="Sign-out">
            You are signed out of this page, but not of {host}.
          </p>
          <button type="button" className="secondary" onClick={() => location.assign(logoutAddress)}>
            Sign out there too
          </button>
        </>
      )}
    </div>
  );
}
