// Which devices are shown, and in which order. Pure.

import type { DeviceState } from '../../state/fleet.ts';

export const STATES = ['online', 'stale', 'offline', 'never'] as const satisfies readonly DeviceState[];
export const ORDERS = ['name', 'state', 'newest', 'oldest'] as const;
export type Order = (typeof ORDERS)[number];
export type Which = 'all' | DeviceState;

/** What is asked of a device here. */
export interface Entry {
  id: string;
  state: DeviceState;
  /** Unix seconds of its last reading. */
  heard: number | null;
  model: string | null;
  firmware: string | null;
}

export interface Wanted {
  which: Which;
  order: Order;
  /** Words that all stand in the id, the model or the firmware. */
  text: string;
}

/** How many there are in each state. */
export function tally(entries: readonly Entry[]): Record<DeviceState, number> {
  const counts = { online: 0, stale: 0, offline: 0, never: 0 };
  for (const { state } of entries) counts[state] += 1;
  return counts;
}

/** The ids that are wanted, in order. `entries` are sorted by name. */
export function select(entries: readonly Entry[], { which, order, text }: Wanted, now: number): string[] {
  const words = text.toLowerCase().split(/\s+/).filter(Boolean);
  const chosen = entries.filter((entry) => {
    if (which !== 'all' && entry.state !== which) return false;
    if (words.length === 0) return true;
    const about = `${entry.id}\n${entry.model ?? ''}\n${entry.firmware ?? ''}`.toLowerCase();
    return words.every((word) => about.includes(word));
  });
  // Sorting keeps the order of equals: by name.
  if (order === 'state') chosen.sort((a, b) => TROUBLE[a.state] - TROUBLE[b.state]);
  if (order === 'newest' || order === 'oldest') {
    const sign = order === 'newest' ? 1 : -1;
    const ages = new Map(chosen.map((entry) => [entry, settledAge(entry, now)]));
    chosen.sort((a, b) => {
      const [left, right] = [ages.get(a) ?? null, ages.get(b) ?? null];
      // What has never sent anything comes last either way.
      if (left === null || right === null) return Number(left === null) - Number(right === null);
      return sign * (left - right);
    });
  }
  return chosen.map(({ id }) => id);
}

const TROUBLE: Record<DeviceState, number> = { stale: 0, offline: 1, never: 2, online: 3 };

// Devices that send as they should keep their places: their ages differ only in which comes next.
function settledAge({ state, heard }: Entry, now: number): number | null {
  if (heard === null) return null;
  const age = Math.max(0, now - heard);
  if (state !== 'online') return age;
  return age < 10 ? 0 : 10 * 2 ** Math.floor(Math.log2(age / 10));
}
