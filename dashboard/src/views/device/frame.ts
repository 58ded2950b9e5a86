// The time that all charts of the view show together: its length, whether it stands still, what of
// it is zoomed into, and the moment that is pointed at.

import { computed, signal } from '@preact/signals';

import { knownAt } from '../../state/known.ts';

/** The lengths that can be chosen, in seconds. */
export const RANGES = [60, 300, 900, 3600, 21600, 86400] as const;

export interface Span {
  /** Unix seconds on the gateway's clock. */
  from: number;
  to: number;
}

// A plot is drawn anew when it has moved by about this part of its width.
const STEADY = 900;
/** Nobody needs to see less than this many seconds. */
const SHORTEST = 5;

/** Stays as chosen while the page is open, also from one device to the next. */
export const range = signal<number>(300);

export class Frame {
  /** Where the right edge stands while it does not move. */
  readonly pausedAt = signal<number | null>(null);
  readonly zoom = signal<Span | null>(null);
  /** The moment that is pointed at, and the name of the chart in which. */
  readonly pointer = signal<{ time: number; by: string } | null>(null);

  readonly still = computed(() => this.pausedAt.value !== null || this.zoom.value !== null);

  /** What is shown. When the page's own connection is lost it stands still too. */
  readonly shown = computed<Span>(() => {
    if (this.zoom.value) return this.zoom.value;
    const step = Math.max(1, Math.floor(range.value / STEADY));
    const to = this.pausedAt.value ?? Math.ceil((knownAt.value + 1) / step) * step;
    return { from: to - range.value, to };
  });

  choose(seconds: number): void {
    this.zoom.value = null;
    range.value = seconds;
  }

  toggle(): void {
    if (this.still.peek()) {
      this.zoom.value = null;
      this.pausedAt.value = null;
    } else {
      this.pausedAt.value = this.shown.peek().to;
    }
  }

  zoomTo(from: number, to: number): void {
    const end = Math.min(to, knownAt.peek() + 1);
    if (end - from >= SHORTEST) this.zoom.value = { from, to: end };
  }

  /** Makes what is shown shorter (`factor` < 1) or longer, around `time`. */
  zoomBy(factor: number, time: number): void {
    const { from, to } = this.shown.peek();
    const whole = (to - from) * factor;
    if (whole >= range.peek()) this.zoom.value = null;
    else this.zoomTo(time - (time - from) * factor, time + (to - time) * factor);
  }

  reset(): void {
    this.zoom.value = null;
  }
}
