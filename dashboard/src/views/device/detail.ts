// What only the answer for a single device holds: asked for again and again while it is looked at.

import { useSignal, useSignalEffect, type ReadonlySignal } from '@preact/signals';

import { ApiError, devicePath, get } from '../../api/rest.ts';
import type { DeviceDetail } from '../../api/types.ts';
import { connection } from '../../state/gateway.ts';

const EVERY = 2000;

/** Null: nothing yet. `unknown`: the gateway has no such device. */
export type Detail = DeviceDetail | 'unknown' | null;

export function useDetail(id: string): ReadonlySignal<Detail> {
  const detail = useSignal<Detail>(null);
  useSignalEffect(() => {
    if (connection.value.state !== 'live') return undefined;
    const stop = new AbortController();
    let timer = 0;
    const ask = async () => {
      clearTimeout(timer);
      if (document.hidden) return;
      try {
        detail.value = await get<DeviceDetail>(devicePath(id), stop.signal);
      } catch (error) {
        if (stop.signal.aborted) return;
        // Anything else passes; what is shown stays until the next answer.
        if (error instanceof ApiError && error.status === 404) detail.value = 'unknown';
      }
      if (!stop.signal.aborted) timer = window.setTimeout(ask, EVERY);
    };
    document.addEventListener('visibilitychange', ask);
    void ask();
    return () => {
      stop.abort();
      clearTimeout(timer);
      document.removeEventListener('visibilitychange', ask);
    };
  });
  return detail;
}
