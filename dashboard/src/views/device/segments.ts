// What a timeline of a text or boolean reading shows: changes in, segments out. Pure.

export type State = string | boolean;
export type Change = readonly [time: number, value: State];

export interface Segment {
  from: number;
  to: number;
  value: State;
}

/** What is drawn: a segment, or several that are too short to be told apart (`value` null). */
export interface Bar {
  from: number;
  to: number;
  value: State | null;
  /** How many segments it stands for. */
  count: number;
}

/** Changes kept at most. */
const MOST = 1000;

/** Adds a value that came at a time; one that changes nothing changes nothing. */
export function added(changes: readonly Change[], time: number, value: State): readonly Change[] {
  const last = changes.at(-1);
  if (last && (time <= last[0] || last[1] === value)) return changes;
  return [...changes, [time, value] as const].slice(-MOST);
}

/** What the gateway remembers, and after it what came since. */
export function joined(answer: readonly Change[], to: number, here: readonly Change[]): readonly Change[] {
  if (answer.length === 0) return here;
  let changes: readonly Change[] = answer;
  for (const [time, value] of here) if (time > to) changes = added(changes, time, value);
  return changes;
}

/**
 * The states within a time, oldest first. Nothing is known from `until` on: the last state is not
 * drawn further than it was heard of.
 */
export function segments(changes: readonly Change[], from: number, to: number, until: number): Segment[] {
  const end = Math.min(to, until);
  const found: Segment[] = [];
  changes.forEach(([time, value], index) => {
    const segment = {
      from: Math.max(time, from),
      to: Math.min(changes[index + 1]?.[0] ?? end, end),
      value,
    };
    if (segment.to <= segment.from) return;
    const last = found.at(-1);
    if (last && last.value === value && last.to === segment.from) last.to = segment.to;
    else found.push(segment);
  });
  return found;
}

/** Joins neighbours that are all shorter than `least` seconds into one bar. */
export function bars(found: readonly Segment[], least: number): Bar[] {
  const drawn: Bar[] = [];
  for (const { from, to, value } of found) {
    const last = drawn.at(-1);
    const short = to - from < least;
    if (short && last && last.to === from && (last.value === null || last.to - last.from < least)) {
      last.to = to;
      last.value = null;
      last.count += 1;
    } else {
      drawn.push({ from, to, value, count: 1 });
    }
  }
  return drawn;
}

/** The segment at a moment: where one ends and the next begins, the next. */
export function at(found: readonly Segment[], time: number): Segment | undefined {
  return found.findLast(({ from, to }) => time >= from && time <= to);
}
