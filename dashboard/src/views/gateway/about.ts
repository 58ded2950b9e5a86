// What the gateway says about itself, asked for as long as somebody looks.

import { signal, type ReadonlySignal } from '@preact/signals';

import { ApiError, get } from '../../api/rest.ts';
import type { About } from '../../api/types.ts';
import { useAsking } from '../../state/asking.ts';

const EVERY = 5000;

/** Null: not known yet. `absent`: the gateway does not tell. */
type Known = About | 'absent' | null;

const known = signal<Known>(null);

/** Keeps asking while the component that calls it is on the page. */
export function useAbout(): ReadonlySignal<Known> {
  useAsking(async (signal) => {
    try {
      known.value = await get<About>('/api/v1/gateway', signal);
    } catch (error) {
      if (error instanceof ApiError && error.status === 404) known.value = 'absent';
      // Otherwise the shell says that the gateway is away, and what was known stays.
    }
  }, EVERY, []);
  return known;
}
