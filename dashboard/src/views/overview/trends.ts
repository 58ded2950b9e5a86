// The trends of the devices in view: asked for when a card comes into view, few at a time, then
// carried on by the feed, and asked for again when the page's connection was away.

import { effect, signal, type Signal } from '@preact/signals';

import { ApiError, devicePath, get } from '../../api/rest.ts';
import type { History, NamedReading } from '../../api/types.ts';
import { onReadings } from '../../state/fleet.ts';
import { snapshots } from '../../state/gateway.ts';
import { SPAN, Trend } from './trend.ts';

const POINTS = 60;
// Asked for at the same time.
const AT_ONCE = 3;
// A card that is scrolled past is not asked for.
const PATIENCE = 150;
// Devices whose trends are kept; those in view always are.
const KEPT = 400;

export class Trends {
  readonly byName = new Map<string, Trend>();
  /** Changes when the gateway's memory has come. */
  readonly version: Signal<number> = signal(0);
  /** Cards that show it. */
  watchers = 0;
  /** The snapshot after which it was asked for. */
  asked = -1;

  take(records: readonly NamedReading[]): void {
    for (const { n, v, t } of records) {
      if (v === undefined) continue;
      let trend = this.byName.get(n);
      if (!trend) this.byName.set(n, trend = new Trend());
      trend.add(t, v);
    }
  }
}

/** By device, the one shown last at the end. */
const kept = new Map<string, Trends>();
const waiting = new Set<string>();
let running = 0;
/** The snapshot after which the gateway said that it keeps no history. */
let unknown = -1;

onReadings((device, records) => kept.get(device)?.take(records));

effect(() => {
  if (snapshots.value > 0) for (const [id, { watchers }] of kept) if (watchers > 0) want(id);
});

/** A device's trends, which grow as long as somebody watches. */
export function trendsOf(device: string): Trends {
  let trends = kept.get(device);
  if (!trends) {
    trends = new Trends();
    kept.set(device, trends);
  }
  return trends;
}

/** The device's card is in view. Returns what to call when it no longer is. */
export function watch(device: string): () => void {
  const trends = trendsOf(device);
  trends.watchers += 1;
  kept.delete(device);
  kept.set(device, trends);
  const timer = setTimeout(() => want(device), PATIENCE);
  return () => {
    clearTimeout(timer);
    trends.watchers -= 1;
    waiting.delete(device);
    for (const [id, { watchers }] of kept) {
      if (kept.size <= KEPT) break;
      if (watchers === 0) kept.delete(id);
    }
  };
}

function want(device: string): void {
  if (kept.get(device)?.asked === snapshots.peek()) return;
  waiting.add(device);
  pump();
}

function pump(): void {
  for (const device of waiting) {
    if (running >= AT_ONCE) return;
    waiting.delete(device);
    running += 1;
    void ask(device).finally(() => {
      running -= 1;
      pump();
    });
  }
}

async function ask(device: string): Promise<void> {
  const trends = kept.get(device);
  const now = snapshots.peek();
  if (!trends || now === 0 || unknown === now) return;
  trends.asked = now;
  try {
    const query = `/history?seconds=${SPAN}&points=${POINTS}`;
    const { series } = await get<{ series: History[] }>(devicePath(device, query));
    for (const history of series) {
      if (history.points.length === 0) continue;
      let trend = trends.byName.get(history.name);
      if (!trend) trends.byName.set(history.name, trend = new Trend());
      trend.seed(history);
    }
    trends.version.value += 1;
  } catch (error) {
    // Then the line begins with what the feed brings.
    if (error instanceof ApiError && error.status === 404) unknown = now;
  }
}
