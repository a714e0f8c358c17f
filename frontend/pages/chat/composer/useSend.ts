// Sending messages of the user, and sending them again.

import { useCallback } from "react";
import type { UserEntry } from "../../../src/index.ts";
import { useNetra } from "../../../src/react/index.ts";

interface Send {
  readonly send: (content: string) => void;
  readonly sendAgain: (entry: UserEntry) => void;
}

export function useSend(): Send {
  const sendMessage = useNetra((netra) => netra.sendMessage);
  const sendOptimisticMessage = useNetra((netra) => netra.sendOptimisticMessage);
  const resend = useNetra((netra) => netra.resend);
  const send = useCallback(
    (content: string) => {
      const correlation_id = sendOptimisticMessage(content);
      void sendMessage({ type: "user_message", payload: { content, correlation_id } });
    },
    [sendMessage, sendOptimisticMessage],
  );
  const sendAgain = useCallback(
    (entry: UserEntry) => {
      const key = entry.correlation_id === null ? null : resend(entry.correlation_id);
      if (key === null) send(entry.content);
    },
    [resend, send],
  );
  return { send, sendAgain };
}
