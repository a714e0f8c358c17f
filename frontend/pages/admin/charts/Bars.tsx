// Counts by name as bars.

import { count } from "../format.ts";

interface Props {
  readonly title: string;
  readonly rows: readonly (readonly [name: string, count: number])[];
  /** The text if there are no rows. */
  readonly empty: string;
}

const SHOWN = 6; // rows: the height of a chart

export function Bars({ title, rows, empty }: Props) {
  const most = Math.max(1, ...rows.map(([, value]) => value));
  const left = rows.slice(SHOWN).reduce((sum, [, value]) => sum + value, 0);
  return (
    <figure className="chart">
      <figcaption>
        <span className="chart-title">{title}</span>
      </figcaption>
      {rows.length === 0 ? (
        <p className="note">{empty}</p>
      ) : (
        <ul className="bars">
          {rows.slice(0, SHOWN).map(([name, value]) => (
            <li key={name}>
              <span className="bar-name" title={name}>{name}</span>
              <meter min={0} max={most} value={value} aria-hidden="true" />
              <span className="bar-value">{count(value)}</span>
            </li>
          ))}
          {left > 0 && <li className="note">{`and ${count(left)} others`}</li>}
        </ul>
      )}
    </figure>
  );
}
