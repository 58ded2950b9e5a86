// All devices as the overview counts, chooses and orders them, looked at once a second.

import { computed, effect, signal } from '@preact/signals';

import { fleet, roster } from '../../state/fleet.ts';
import { knownAt } from '../../state/known.ts';
import { ORDERS, select, STATES, tally, type Entry, type Wanted } from './select.ts';

const KEY = 'tidegate.overview';

export const LAYOUTS = ['cards', 'list'] as const;
export type LayoutName = (typeof LAYOUTS)[number];

/** What the person at the page asked for. Kept for as long as the tab lives. */
export const wanted = signal<Wanted & { layout: LayoutName }>(remembered());

effect(() => {
  try {
    sessionStorage.setItem(KEY, JSON.stringify(wanted.value));
  } catch {
    // Storage may be forbidden; then the choice lasts as long as the page.
  }
});

function remembered(): Wanted & { layout: LayoutName } {
  let kept: Partial<Record<string, unknown>> = {};
  try {
    kept = (JSON.parse(sessionStorage.getItem(KEY) ?? '{}') ?? {}) as typeof kept;
  } catch {
    // As above.
  }
  return {
    which: STATES.find((state) => state === kept['which']) ?? 'all',
    order: ORDERS.find((order) => order === kept['order']) ?? 'name',
    text: typeof kept['text'] === 'string' ? kept['text'] : '',
    layout: LAYOUTS.find((layout) => layout === kept['layout']) ?? 'cards',
  };
}

export const entries = computed<Entry[]>(() => {
  const now = knownAt.value;
  return roster.value.flatMap((id) => {
    const device = fleet.get(id);
    if (!device) return [];
    const { model, firmware } = device.facts;
    return [{ id, state: device.stateAt(now), heard: device.heard, model, firmware }];
  });
});

export const counts = computed(() => tally(entries.value));

let before: string[] = [];

/** The devices to show, in order. The same array as long as nothing changes. */
export const shown = computed(() => {
  const now = select(entries.value, wanted.value, knownAt.value);
  const same = now.length === before.length && now.every((id, index) => id === before[index]);
  return same ? before : (before = now);
});

/** Readings that a card has room for. */
export const ROOM = 5;

const most = computed(() => {
  void knownAt.value;
  return roster.value.reduce((size, id) => Math.max(size, fleet.get(id)?.readings.size ?? 0), 1);
});

/** Rows of a card: as many as the device with most readings fills, since all are of one height. */
export const rows = computed(() => Math.min(ROOM, most.value));

/** Whether some device has more readings than a card has room for. */
export const overfull = computed(() => most.value > ROOM);
