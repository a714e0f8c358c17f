// A small chart of the last hour: a line for each series, and the values at the pointer.

import { type PointerEvent, useMemo, useState } from "react";
import { orNone } from "../format.ts";
import type { Series } from "../live/series.ts";
import { STEP } from "../live/state.ts";
import { pathOf } from "./path.ts";

export interface Line {
  /** Its name in the legend; empty if the chart has only one line. */
  readonly name: string;
  readonly series: Series;
}

interface Props {
  readonly title: string;
  readonly lines: readonly Line[];
  readonly format: (value: number) => string;
  /** The top of the chart; the largest value if absent. */
  readonly top?: number;
}

const WIDTH = 360; // units of the drawing: one for each step
const HEIGHT = 60;

export function Chart({ title, lines, format, top }: Props) {
  const [at, setAt] = useState<number | null>(null);
  const highest = useMemo(() => highestOf(lines), [lines]);
  const shown = lines.map(({ name, series }) => ({ name, value: at === null ? newest(series) : (series[at] ?? null) }));
  const paths = useMemo(
    () => lines.map(({ series }) => pathOf(series, { width: WIDTH, height: HEIGHT, top: top ?? highest ?? 0 })),
    [lines, top, highest],
  );
  const length = lines[0]?.series.length ?? 0;
  const onPointerMove = (event: PointerEvent<SVGSVGElement>) => {
    const { left, width } = event.currentTarget.getBoundingClientRect();
    const place = Math.floor(((event.clientX - left) / width) * length);
    setAt(Math.min(Math.max(place, 0), length - 1));
  };
  const values = shown.map(({ name, value }) => `${name} ${orNone(value, format)}`.trim()).join(", ");
  return (
    <figure className="chart">
      <figcaption>
        <span className="chart-title">{title}</span>
        <span className="chart-values">
          {shown.map(({ name, value }, index) => (
            <span key={name} className={`line-${index}`}>
              {name && <span className="chart-name">{name}</span>}
              {orNone(value, format)}
            </span>
          ))}
        </span>
      </figcaption>
      <svg
        role="img"
        aria-label={`${title}: now ${values}; highest in the last hour ${orNone(highest, format)}`}
        viewBox={`0 0 ${WIDTH} ${HEIGHT}`}
        preserveAspectRatio="none"
        onPointerMove={onPointerMove}
        onPointerLeave={() => setAt(null)}
      >
        <line className="chart-base" x1="0" x2={WIDTH} y1={HEIGHT - 0.5} y2={HEIGHT - 0.5} />
        {paths.map((path, index) => (
          <path key={index} className={`line-${index}`} d={path} />
        ))}
        {at !== null && <line className="chart-at" x1={at + 0.5} x2={at + 0.5} y1="0" y2={HEIGHT} />}
      </svg>
      <p className="chart-scale" aria-hidden="true">
        <span>{at === null ? "1 h ago" : agoText((length - 1 - at) * STEP)}</span>
        <span>highest {orNone(highest, format)}</span>
      </p>
    </figure>
  );
}

/** The largest value of all lines; null without any. */
function highestOf(lines: readonly Line[]): number | null {
  const values = lines.flatMap(({ series }) => series.filter((value) => value !== null));
  return values.length === 0 ? null : Math.max(...values);
}

function newest(series: Series): number | null {
  // The newest step may not be finished, or not have arrived.
  return series.slice(-3).findLast((value) => value !== null) ?? null;
}

function agoText(seconds: number): string {
  if (seconds < 60) return seconds === 0 ? "now" : `${seconds} s ago`;
  return `${Math.round(seconds / 60)} min ago`;
}
