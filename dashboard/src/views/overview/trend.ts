// A bounded trend of one reading: what a card's small line is drawn from. Pure.

import type { Sample } from '../../parts/line.ts';
import type { History } from '../../api/types.ts';

/** Seconds that a card's lines reach back. */
export const SPAN = 600;

/** Points of a trend at most; twice as many are asked for at no time. */
export const MOST = 120;

// So that a gateway that has just started shows a line and not a dot.
const SHORTEST = 60;

export class Trend {
  samples: Sample[] = [];
  /** Seconds that one sample stands for at least. */
  #step = 1;
  /** How many values the last sample is the mean of. */
  #count = 0;

  /** A newer value. One that is not newer is left out: it came late and says nothing of now. */
  add(time: number, value: number): void {
    const last = this.samples.at(-1);
    if (last && time - last[0] < this.#step) {
      if (time < last[0]) return;
      this.#count += 1;
      this.samples[this.samples.length - 1] = [last[0], last[1] + (value - last[1]) / this.#count];
      return;
    }
    this.samples.push([time, value]);
    this.#count = 1;
    if (this.samples.length > MOST) this.#shrink(time);
  }

  /** Takes what the gateway remembers; of what is here, only what came after stays. */
  seed(history: History): void {
    const known: Sample[] = history.points.map(([time, , mean]) => [time + history.step_s / 2, mean]);
    const end = (known.at(-1)?.[0] ?? -Infinity) + history.step_s / 2;
    this.samples = [...known, ...this.samples.filter(([time]) => time >= end)];
    this.#count = 1;
    this.#step = Math.max(1, history.step_s / 2);
  }

  /** From when a line that ends at `now` is drawn: as far back as there is something, in bounds. */
  start(now: number): number {
    return Math.max(now - SPAN, Math.min(now - SHORTEST, this.samples[0]?.[0] ?? now));
  }

  #shrink(now: number): void {
    this.samples = this.samples.filter(([time]) => time >= now - SPAN);
    while (this.samples.length > MOST) {
      this.#step *= 2;
      this.samples = this.samples.flatMap((sample, index, all) => {
        if (index % 2 === 1) return [];
        const next = all[index + 1];
        return next ? [[(sample[0] + next[0]) / 2, (sample[1] + next[1]) / 2] as const] : [sample];
      });
    }
  }

  /** Seconds of silence after which the line is interrupted. `interval`: usual between values. */
  gap(interval: number): number {
    return Math.max(30, 3 * interval, 3 * this.#step);
  }
}
