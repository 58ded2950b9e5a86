// Asks the gateway for what the feed does not bring, for as long as somebody looks.

import { useEffect } from 'preact/hooks';

import { snapshots } from './gateway.ts';

/**
 * Has `ask` called at once, whenever the connection comes back, when the page is looked at again, and
 * every so many milliseconds (0: no more), until the component is gone or `inputs` change. Not while
 * nobody looks.
 */
export function useAsking(ask: (signal: AbortSignal) => Promise<void>, every: number, inputs: readonly unknown[]): void {
  useEffect(() => {
    const stop = new AbortController();
    const turn = () => {
      if (!document.hidden) void ask(stop.signal);
    };
    const timer = every > 0 ? setInterval(turn, every) : 0;
    document.addEventListener('visibilitychange', turn);
    const unsubscribe = snapshots.subscribe(turn);
    return () => {
      stop.abort();
      clearInterval(timer);
      document.removeEventListener('visibilitychange', turn);
      unsubscribe();
    };
  }, inputs);
}
