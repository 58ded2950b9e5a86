// The gateway as the page knows it: the connection to it, its status, and what the feed brings.

import { effect, signal } from '@preact/signals';

import { Feed } from '../api/feed.ts';
import type { Message, Status } from '../api/types.ts';
import { setClock } from './clock.ts';
import { takeCommand } from './commands.ts';
import { removeDevice, replaceFleet, takeFacts, takeReadings } from './fleet.ts';
import { nextRun, takeLog } from './log.ts';
import { mustSignIn, refreshSession, session } from './session.ts';

/** Times in milliseconds of this machine's clock. */
export type Connection =
  | { state: 'connecting' }
  | { state: 'live' }
  | { state: 'lost'; since: number; retryAt: number };

export const connection = signal<Connection>({ state: 'connecting' });
export const status = signal<Status | null>(null);
/** Counts the snapshots: whoever keeps a history fills its gap when this changes. */
export const snapshots = signal(0);

let feed: Feed | null = null;

/** Opens the feed, once somebody who may see it is at the page. */
export async function connect(): Promise<void> {
  await refreshSession();
  effect(() => {
    if (mustSignIn.value) feed?.pause();
    else if (feed) feed.retry();
    else feed = open();
  });
}

function open(): Feed {
  return new Feed({
    live() {
      // It was away when it was asked first.
      if (session.peek() === null) void refreshSession();
      connection.value = { state: 'live' };
    },
    lost(at, retryAt) {
      // A gateway that is there and refuses the feed wants to know who asks.
      void refreshSession();
      const before = connection.peek();
      connection.value = { state: 'lost', since: before.state === 'lost' ? before.since : at, retryAt };
    },
    message: take,
  });
}

/** Tries to reach the gateway now. */
export function reconnect(): void {
  feed?.retry();
}

function take(message: Message): void {
  switch (message.type) {
    case 'snapshot': {
      const before = status.peek();
      // A gateway that was upgraded has a newer page too.
      if (before && before.version !== message.version) location.reload();
      if (before && message.status.uptime_s < before.uptime_s) nextRun();
      setClock(message.time);
      replaceFleet(message.devices);
      status.value = message.status;
      snapshots.value += 1;
      break;
    }
    case 'readings':
      takeReadings(message.device, message.readings, message.last_seen, message.interval_s);
      break;
    case 'device':
      if (message.forgotten) removeDevice(message.device);
      else takeFacts(message);
      break;
    case 'status':
      setClock(message.time);
      status.value = message;
      break;
    case 'command':
      takeCommand(message);
      break;
    case 'log':
      takeLog(message);
      break;
    default: // Newer gateways may say more.
  }
}
