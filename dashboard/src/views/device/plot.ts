// How a chart is drawn: uPlot with this page's colours, times and numbers.

import uPlot from 'uplot';

import { decimal } from '../../format/numbers.ts';
import { clock } from './times.ts';

export interface Colours {
  line: string;
  band: string;
  grid: string;
  text: string;
}

/** The colours that the style sheet gives `element` now. */
export function coloursOf(element: Element): Colours {
  const style = getComputedStyle(element);
  const read = (name: string) => style.getPropertyValue(name).trim();
  return {
    line: read('--chart-line'), band: read('--chart-band'), grid: read('--line'), text: read('--quiet'),
  };
}

export interface Hooks {
  colours(): Colours;
  zoomed(from: number, to: number): void;
  reset(): void;
}

const FONT = '12px system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif';
/** Room for the numbers of the vertical axis: the same in each chart, so that their times line up. */
const NUMBERS = 54;
const TIMES = 26;

/** The steps of the axis of times, in seconds, that people count in. */
const STEPS = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 14400, 21600, 43200, 86400];

export function options(width: number, height: number, hooks: Hooks): uPlot.Options {
  const grid = { stroke: () => hooks.colours().grid, width: 1 };
  const axis = { stroke: () => hooks.colours().text, font: FONT, ticks: { show: false } };
  const edge = { stroke: 'transparent', width: 0, points: { show: false } };
  return {
    width,
    height,
    padding: [8, 10, 0, 0],
    legend: { show: false },
    cursor: {
      y: false,
      points: { size: 8, fill: () => hooks.colours().line, stroke: () => hooks.colours().line },
      drag: { x: true, y: false, setScale: false, dist: 6 },
      bind: {
        // Whoever wants the whole again: instead of uPlot's own way, which only sees its data.
        dblclick: () => () => {
          hooks.reset();
          return null;
        },
      },
    },
    scales: { x: { time: true, auto: false }, y: { range: room } },
    axes: [
      {
        ...axis,
        grid: { show: false },
        size: TIMES,
        gap: 6,
        space: 70,
        incrs: STEPS,
        values: (_, splits, __, ___, step) => splits.map((time) => clock(time, step)),
      },
      {
        ...axis,
        grid,
        size: NUMBERS,
        gap: 8,
        space: 34,
        values: (_, splits, __, ___, step) => splits.map((value) => numberAt(value, step)),
      },
    ],
    series: [
      {},
      { stroke: () => hooks.colours().line, width: 1.75, points: { show: lonely }, spanGaps: false },
      edge,
      edge,
    ],
    bands: [{ series: [3, 2], fill: () => hooks.colours().band }],
    hooks: {
      setSelect: [
        (plot) => {
          const { left, width: wide } = plot.select;
          if (wide > 0) {
            hooks.zoomed(plot.posToVal(left, 'x'), plot.posToVal(left + wide, 'x'));
            plot.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
          }
        },
      ],
    },
  };
}

// The noise of a steady value shall not look like a storm.
function room(_: uPlot, min: number | null, max: number | null): uPlot.Range.MinMax {
  if (min === null || max === null) return [0, 1];
  const lacking = Math.max(Math.abs(max + min) * 0.002, 1e-9) - (max - min);
  const half = Math.max(0, lacking / 2);
  return uPlot.rangeNum(min - half, max + half, 0.12, true);
}

// A value alone between gaps would be no line at all.
function lonely(plot: uPlot): boolean {
  return plot.data[1]?.length === 1;
}

function numberAt(value: number, step: number): string {
  if (Math.abs(value) >= 1e6 || (step > 0 && step < 1e-4)) return value.toPrecision(3).replace('-', '−');
  return decimal(value, step >= 1 ? 0 : Math.ceil(-Math.log10(step) - 1e-9));
}
