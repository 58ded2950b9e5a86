// What the gateway's figures did in the last minutes, as far as this page has watched.

import { computed, effect, signal } from '@preact/signals';

import { gatewayTime } from '../../state/clock.ts';
import { connection, status } from '../../state/gateway.ts';
import type { Sample } from '../../parts/line.ts';

/** Seconds that the line of the rates reaches back. */
export const WATCHED = 300;

interface Figures {
  time: number;
  in: number | null;
  out: number | null;
  rejected: number;
  lost: number;
}

const figures = signal<readonly Figures[]>([]);

effect(() => {
  const now = status.value;
  if (!now) return;
  const before = figures.peek();
  const last = before.at(-1);
  const taken: Figures = {
    time: gatewayTime(),
    in: now.rates?.in ?? null,
    out: now.rates?.out ?? null,
    rejected: now.rejected_batches ?? 0,
    lost: now.spool.lost_readings,
  };
  // A gateway that counts less than before has started anew.
  const anew = last && (taken.rejected < last.rejected || taken.lost < last.lost);
  figures.value = [...before.filter(({ time }) => !anew && taken.time - time <= WATCHED), taken];
});

/** The rates in and out, oldest first. */
export const rates = computed(() => {
  const line = (of: 'in' | 'out') => figures.value.flatMap((at): Sample[] => {
    const value = at[of];
    return value === null ? [] : [[at.time, value]];
  });
  return { in: line('in'), out: line('out') };
});

/** What was rejected and lost in the last minute. */
export const trouble = computed(() => {
  const last = figures.value.at(-1);
  const first = figures.value.find(({ time }) => last && last.time - time <= 60);
  if (!last || !first || connection.value.state !== 'live') return { rejected: 0, lost: 0 };
  return { rejected: last.rejected - first.rejected, lost: last.lost - first.lost };
});
