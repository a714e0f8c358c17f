// The notice that most of the budget of today is used, before messages are refused.

import { useEffect, useState } from "react";
import type { ServerMessageOf } from "../../src/index.ts";
import { useNetraClient } from "../../src/react/index.ts";
import { AlertIcon, CloseIcon } from "../shared/icons.tsx";

type Usage = ServerMessageOf<"usage_warning">["payload"];

export function UsageNotice() {
  const client = useNetraClient();
  const [usage, setUsage] = useState<Usage | null>(null);
  useEffect(() => client.subscribe("usage_warning", ({ payload }) => setUsage(payload)), [client]);
  if (usage === null) return null;
  return (
    <div className="banner calm" role="status">
      <AlertIcon />
      <div className="said">
        <p>{textOf(usage)}</p>
      </div>
      <button type="button" className="square" aria-label="Dismiss" onClick={() => setUsage(null)}>
        <CloseIcon />
      </button>
    </div>
  );
}

function textOf({ agent_name, limit, used }: Usage): string {
  if (used >= limit) return `Your budget for the agent ${agent_name} is used up today.`;
  return `You have used ${Math.floor((100 * used) / limit)} % of today's budget for the agent ${agent_name}.`;
}
