// A small line of how something went, without axes.

import { paths, range, type Sample } from './line.ts';
import './sparkline.css';

interface Line {
  samples: readonly Sample[];
  /** The second line of two is drawn thinner. */
  faint?: boolean;
}

interface Props {
  lines: Line[];
  from: number;
  to: number;
  /** Seconds without a sample that interrupt the line. */
  gap: number;
  /** Where the scale begins, if not at the least value. */
  base?: number;
  /** What it shows, for those who do not see it. Left out where the figures beside it say enough. */
  label?: string;
}

const [WIDTH, HEIGHT] = [100, 24];
// Room for the line's own width.
const EDGE = 2;

export function Sparkline({ lines, from, to, gap, base, label }: Props) {
  let [min, max] = range(lines.flatMap(({ samples }) => samples.filter(([time]) => time >= from)));
  if (base !== undefined) [min, max] = [base, Math.max(max, base + 1e-9)];
  const frame = { from, to, min, max, width: WIDTH, height: HEIGHT - 2 * EDGE, gap };
  return (
    <svg
      class="sparkline"
      viewBox={`0 ${-EDGE} ${WIDTH} ${HEIGHT}`}
      preserveAspectRatio="none"
      {...(label ? { role: 'img', 'aria-label': label } : { 'aria-hidden': true })}
    >
      {lines.map(({ samples, faint }, index) => {
        const { line, area } = paths(samples, frame);
        return faint
          ? <path key={index} class="faint" d={line} />
          : [<path key="area" class="area" d={area} />, <path key={index} d={line} />];
      })}
    </svg>
  );
}
