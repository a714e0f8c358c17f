// The choice of an agent; nothing if there is only one.

import type { Agents } from "./useAgents.ts";

export function AgentPicker({ agents, current, choose }: Agents) {
  if (agents.length < 2 || current === undefined) return null;
  return (
    <label className="agent-picker">
      <span className="only-read">Agent</span>
      <select value={current.name} onChange={(event) => choose(event.target.value)}>
        {agents.map(({ name, title }) => (
          <option key={name} value={name}>{title}</option>
        ))}
      </select>
    </label>
  );
}
