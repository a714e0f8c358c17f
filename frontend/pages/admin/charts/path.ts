// The line of a chart as the path of an SVG.

import type { Series } from "../live/series.ts";

interface Size {
  readonly width: number;
  readonly height: number;
  /** The value at the upper edge. */
  readonly top: number;
}

const MARGIN = 2; // units at both edges, so that the line is not cut off
const WIDE = 0.6; // units of a single value between missing ones

/** A line through the values, with a gap where there is none. */
export function pathOf(series: Series, { width, height, top }: Size): string {
  const step = width / Math.max(series.length, 1);
  const y = (value: number) => {
    const share = top === 0 ? 0 : Math.min(value / top, 1);
    return round(height - MARGIN - share * (height - 2 * MARGIN));
  };
  const pieces: string[] = [];
  let before: number | null = null;
  series.forEach((value, index) => {
    if (value !== null) {
      const x = round((index + 0.5) * step);
      const isLast = (series[index + 1] ?? null) === null;
      if (before !== null) pieces.push(`L${x} ${y(value)}`);
      else pieces.push(`M${x} ${y(value)}`, ...(isLast ? [`h${WIDE}`] : []));
    }
    before = value;
  });
  return pieces.join("");
}

const round = (value: number): number => Math.round(value * 100) / 100;
