// A countdown while the sign-in ends, if its token is not renewed.

import { useNetra } from "../../../src/react/index.ts";
import { AlertIcon } from "../icons.tsx";
import type { Problem } from "../problem.ts";
import { useNow } from "../useNow.ts";

const NOTICE_MS = 50_000; // before a sign-in ends: a renewal, a minute before, is complete by then

interface Props {
  readonly onSignInAgain: (why: Problem) => void;
}

export function SignInNotice({ onSignInAgain }: Props) {
  const tokenEndsAt = useNetra((netra) => (netra.isConnected ? netra.tokenEndsAt : null));
  const left = (tokenEndsAt ?? Infinity) - useNow(tokenEndsAt !== null);
  if (left > NOTICE_MS) return null;
  const help = "Sign in again to stay connected.";
  return (
    <div className="banner calm" role="note">
      <AlertIcon />
      <p>
        Your sign-in ends in {Math.max(0, Math.ceil(left / 1000))} s. <span className="help">{help}</span>
      </p>
      <button
        type="button"
        className="secondary"
        onClick={() => onSignInAgain({ error: "Your sign-in ended.", help })}
      >
        Sign in again
      </button>
    </div>
  );
}
