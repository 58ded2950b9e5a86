// The path of a trend line. Pure: numbers in, text of an SVG path out.

/** A value at a moment. */
export type Sample = readonly [time: number, value: number];

export interface Frame {
  from: number;
  to: number;
  min: number;
  max: number;
  width: number;
  height: number;
  /** More seconds than this between two samples: nothing is known in between, no line is drawn. */
  gap: number;
}

/** The least and the greatest value, a little apart where all are the same. */
export function range(samples: Iterable<Sample>): [min: number, max: number] {
  let [min, max] = [Infinity, -Infinity];
  for (const [, value] of samples) {
    if (value < min) min = value;
    if (value > max) max = value;
  }
  if (min > max) return [0, 1];
  // The noise of a steady value shall not look like a storm.
  const room = Math.max(max - min, Math.abs(max + min) * 0.005, 1e-9) - (max - min);
  return [min - room / 2, max + room / 2];
}

/** The line and the area below it, in pieces where there are gaps. Samples are oldest first. */
export function paths(samples: readonly Sample[], frame: Frame): { line: string; area: string } {
  const { from, to, min, max, width, height, gap } = frame;
  const across = width / Math.max(to - from, 1e-9);
  const up = height / Math.max(max - min, 1e-9);
  let line = '';
  let area = '';
  let piece = '';
  let start = '';
  let end = '';
  let before = -Infinity;
  const close = () => {
    // A lone sample is a dot: a line of no length with round ends.
    line += piece.includes('L') || !piece ? piece : `${piece}h0`;
    if (piece.includes('L')) area += `${piece}L${end},${height}L${start},${height}Z`;
    piece = '';
  };
  for (const [time, value] of samples) {
    if (time < from || time > to) continue;
    const x = ((time - from) * across).toFixed(1);
    const y = (height - (value - min) * up).toFixed(1);
    if (time - before > gap) {
      close();
      start = x;
      piece = `M${x},${y}`;
    } else {
      piece += `L${x},${y}`;
    }
    end = x;
    before = time;
  }
  close();
  return { line, area };
}
