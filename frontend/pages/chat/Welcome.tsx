// The page of a conversation without messages: the chosen agent and its examples.

import type { ListedAgent } from "../../src/index.ts";
import { ICON } from "../shared/icons.tsx";

interface Props {
  readonly agent: ListedAgent | undefined;
  readonly onPick: (text: string) => void;
}

export function Welcome({ agent, onPick }: Props) {
  const examples = agent?.examples ?? [];
  return (
    <section className="welcome">
      <img src={ICON} alt="" width="56" height="56" />
      {agent && <p className="welcome-agent" dir="auto">{agent.title}</p>}
      <h2>What would you like to know?</h2>
      {examples.length > 0 && (
        <ul className="examples" aria-label="Examples">
          {examples.map((example) => (
            <li key={example}>
              <button type="button" dir="auto" onClick={() => onPick(example)}>{example}</button>
            </li>
          ))}
        </ul>
      )}
    </section>
  );
}
