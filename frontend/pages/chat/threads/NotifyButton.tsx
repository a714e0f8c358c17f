// Turns notifications on and off.

import { BellIcon, BellOffIcon } from "../../shared/icons.tsx";
import type { Notifying } from "./useNotifications.ts";

export function NotifyButton({ notifying: { isPossible, isOn, isDenied, toggle } }: { readonly notifying: Notifying }) {
  if (!isPossible) return null;
  const title = isOn ? "Notifications are on" : "Notify me when an answer is complete";
  return (
    <>
      <button
        type="button"
        className="square"
        aria-label="Notifications"
        aria-pressed={isOn}
        title={title}
        onClick={() => void toggle()}
      >
        {isOn ? <BellIcon /> : <BellOffIcon />}
      </button>
      {isDenied && (
        <p className="note notify-note" role="alert">
          Your browser blocks notifications of this page. Allow them in its settings for this site.
        </p>
      )}
    </>
  );
}
