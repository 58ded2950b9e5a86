// The buckets of one numeric reading: what the gateway remembers, and what has come since. Pure.

import type { History } from '../../api/types.ts';

interface Bucket {
  /** Its start, Unix seconds. */
  at: number;
  min: number;
  mean: number;
  max: number;
  /** Values in the mean. Of the gateway's buckets it is not known, so they count as their share. */
  weight: number;
}

/** What a plot takes: times, means, least, greatest. Null: nothing is known of then. */
export interface Columns {
  times: number[];
  means: (number | null)[];
  mins: (number | null)[];
  maxs: (number | null)[];
  /** The start of each bucket; what begins and ends a gap has none. */
  starts: (number | null)[];
}

export interface Summary {
  min: number;
  mean: number;
  max: number;
}

/** Buckets at most; then each two become one. */
const MOST = 2400;
/** Values kept as they came, to join them with an answer that was on its way meanwhile. */
const TAIL = 600;
// This many usual distances without a bucket are a gap.
const MISSED = 3.5;

export class Series {
  /** Seconds of a bucket. */
  step = 1;
  #buckets: Bucket[] = [];
  #tail: [time: number, value: number][] = [];
  #newest = -Infinity;

  get empty(): boolean {
    return this.#buckets.length === 0;
  }

  /** A value that came. `hold`: it is only kept for the next {@link seed}, and not shown yet. */
  add(time: number, value: number, hold = false): void {
    this.#tail.push([time, value]);
    if (this.#tail.length > TAIL) this.#tail.shift();
    if (!hold) this.#put(time, value);
  }

  /**
   * Takes what the gateway remembers in place of what is here; only what came after its answer
   * stays. An answer without anything, as of a gateway that keeps no history, adds only what was
   * held back.
   */
  seed(history: History): void {
    let from = this.#newest;
    if (history.points.length > 0) {
      this.step = history.step_s || 1;
      const distance = usual(history.points.map(([at]) => at)) || this.step;
      const weight = Math.max(1, this.step / distance);
      this.#buckets = history.points.map(([at, min, mean, max]) => ({ at, min, mean, max, weight }));
      const last = this.#buckets.at(-1);
      this.#newest = last ? Math.min(last.at + this.step, history.to) : -Infinity;
      from = history.to;
    }
    for (const [time, value] of this.#tail) if (time > from) this.#put(time, value);
  }

  /** Forgets what is older. */
  trim(before: number): void {
    const keep = this.#buckets.findIndex(({ at }) => at + this.step >= before);
    // One more, so that the line comes in from the edge.
    if (keep > 1) this.#buckets.splice(0, keep - 1);
  }

  #put(time: number, value: number): void {
    const at = Math.floor(time / this.step) * this.step;
    const buckets = this.#buckets;
    let index = buckets.length;
    while (index > 0 && (buckets[index - 1]?.at ?? 0) > at) index -= 1;
    const bucket = buckets[index - 1];
    if (bucket?.at === at) {
      bucket.min = Math.min(bucket.min, value);
      bucket.max = Math.max(bucket.max, value);
      bucket.weight += 1;
      bucket.mean += (value - bucket.mean) / bucket.weight;
    } else {
      buckets.splice(index, 0, { at, min: value, mean: value, max: value, weight: 1 });
      if (buckets.length > MOST) this.#coarsen();
    }
    this.#newest = Math.max(this.#newest, time);
  }

  #coarsen(): void {
    this.step *= 2;
    const joined: Bucket[] = [];
    for (const bucket of this.#buckets) {
      const at = Math.floor(bucket.at / this.step) * this.step;
      const last = joined.at(-1);
      if (last?.at !== at) {
        joined.push({ ...bucket, at });
        continue;
      }
      const weight = last.weight + bucket.weight;
      last.mean += (bucket.mean - last.mean) * (bucket.weight / weight);
      last.weight = weight;
      last.min = Math.min(last.min, bucket.min);
      last.max = Math.max(last.max, bucket.max);
    }
    this.#buckets = joined;
  }

  #within(from: number, to: number): Bucket[] {
    return this.#buckets.filter(({ at }) => at + this.step > from && at <= to);
  }

  /** What a plot of this time shows, multiplied by `factor`. */
  columns(from: number, to: number, factor = 1): Columns {
    const columns: Columns = { times: [], means: [], mins: [], maxs: [], starts: [] };
    const first = this.#buckets.findIndex(({ at }) => at + this.step > from);
    if (first < 0) return columns;
    let end = this.#buckets.findIndex(({ at }) => at > to);
    if (end < 0) end = this.#buckets.length;
    // One more on each side, so that the line reaches the edges.
    const shown = this.#buckets.slice(Math.max(0, first - 1), end + 1);
    const gap = Math.max(2.5 * this.step, MISSED * usual(this.#buckets.map(({ at }) => at)));
    let before: Bucket | undefined;
    const add = (time: number, bucket?: Bucket) => {
      columns.times.push(time);
      columns.means.push(bucket ? bucket.mean * factor : null);
      columns.mins.push(bucket ? bucket.min * factor : null);
      columns.maxs.push(bucket ? bucket.max * factor : null);
      columns.starts.push(bucket ? bucket.at : null);
    };
    for (const bucket of shown) {
      if (before && bucket.at - before.at > gap) add((before.at + bucket.at + this.step) / 2);
      // A bucket stands in its middle, but no value is shown later than it was.
      const middle = Math.min(bucket.at + this.step / 2, Math.max(this.#newest, bucket.at));
      add(middle, bucket);
      before = bucket;
    }
    return columns;
  }

  /** Least, mean and greatest of this time; null where nothing is known of it. */
  summary(from: number, to: number): Summary | null {
    let weight = 0;
    const summary = { min: Infinity, mean: 0, max: -Infinity };
    for (const bucket of this.#within(from, to)) {
      weight += bucket.weight;
      summary.mean += (bucket.mean - summary.mean) * (bucket.weight / weight);
      summary.min = Math.min(summary.min, bucket.min);
      summary.max = Math.max(summary.max, bucket.max);
    }
    return weight > 0 ? summary : null;
  }
}

/** The usual distance of neighbours: the median; 0 where there are fewer than two. */
function usual(times: readonly number[]): number {
  const distances = times.slice(1).map((time, index) => time - (times[index] ?? time));
  distances.sort((a, b) => a - b);
  return distances[Math.floor(distances.length / 2)] ?? 0;
}
