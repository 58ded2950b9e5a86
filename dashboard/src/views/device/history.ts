// Asks for the history of a reading whenever what is shown may lack something.

import { computed, useComputed, useSignalEffect } from '@preact/signals';

import { devicePath, get } from '../../api/rest.ts';
import type { History } from '../../api/types.ts';
import { gatewayTime, second } from '../../state/clock.ts';
import { fleet } from '../../state/fleet.ts';
import { connection, snapshots } from '../../state/gateway.ts';
import { range, type Frame } from './frame.ts';

/** The feed may leave out values when there are many: what it missed is filled in so often, in seconds. */
const AGAIN = 60;
const POINTS = 600;
/** The most that the gateway gives. */
const POINTS_MOST = 2000;
const SECONDS_MOST = 86_400;

const round = computed(() => Math.floor(second.value / AGAIN));
const live = computed(() => connection.value.state === 'live');

/**
 * Calls `take` with each answer, and `missing` when there is none. Asks at the start, for another
 * time, after a reconnect of the page or of the device, and now and then.
 */
export function useHistory(
  device: string,
  name: string,
  frame: Frame,
  take: (history: History) => void,
  missing: () => void,
): void {
  const since = useComputed(() => {
    const model = fleet.get(device);
    void model?.version.value;
    return model?.facts.since;
  });
  useSignalEffect(() => {
    void [snapshots.value, round.value, since.value];
    let seconds = range.value;
    let points = POINTS;
    const zoom = frame.zoom.value;
    if (zoom) {
      // The gateway answers for a time up to now, in the finest steps it has for the whole of it.
      seconds = Math.ceil(gatewayTime() - zoom.from);
      points = POINTS_MOST;
    } else if (frame.pausedAt.value !== null) {
      seconds += Math.ceil(gatewayTime() - frame.pausedAt.value);
    }
    if (!live.value) return undefined;
    const query = new URLSearchParams({
      name, seconds: String(Math.min(seconds, SECONDS_MOST)), points: String(points),
    });
    const stop = new AbortController();
    get<History>(`${devicePath(device, '/history')}?${query}`, stop.signal).then(
      (answer) => stop.signal.aborted || take(answer),
      () => stop.signal.aborted || missing(),
    );
    return () => stop.abort();
  });
}
