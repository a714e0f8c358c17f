// The page of a conversation without messages.

import { ICON } from "../shared/icons.tsx";

export function Welcome({ examples, onPick }: { examples: readonly string[]; onPick: (text: string) => void }) {
  return (
    <section className="welcome">
      <img src={ICON} alt="" width="56" height="56" />
      <h2>What would you like to know?</h2>
      {examples.length > 0 && (
        <ul className="examples" aria-label="Examples">
          {examples.map((example) => (
            <li key={example}>
              <button type="button" onClick={() => onPick(example)}>{example}</button>
            </li>
          ))}
        </ul>
      )}
    </section>
  );
}
