// Commands as the feed tells of them, and as lists take them up.

import { signal } from '@preact/signals';

import type { Command } from '../api/types.ts';

/** The one that changed last. What lists commands takes it up from here. */
export const lastCommand = signal<Command | null>(null);

export function takeCommand(command: Command): void {
  lastCommand.value = command;
}

/** States in the order in which a command comes to them. */
const ORDER = { queued: 0, delivered: 1, expired: 2, rejected: 3, failed: 3, done: 3 };

/**
 * A list with other records taken in, each command once and in its newest state, the newest command
 * first, at most `limit`. Records may come in any order and more than once: an answer that was on
 * its way while the feed told of a change says less.
 */
export function mergeCommands(
  list: readonly Command[],
  records: readonly Command[],
  limit: number,
): readonly Command[] {
  const byId = new Map<string, Command>();
  for (const record of [...list, ...records]) {
    const before = byId.get(record.id);
    const newer = !before || record.time > before.time
      || (record.time === before.time && ORDER[record.state] >= ORDER[before.state]);
    if (newer) byId.set(record.id, record);
  }
  const accepted = (command: Command) => command.accepted ?? command.time;
  return [...byId.values()].sort((a, b) => accepted(b) - accepted(a)).slice(0, limit);
}

/** Whether nothing more is expected of it. (An `expired` one may still become done, late.) */
export function hasEnded(command: Command): boolean {
  return command.state !== 'queued' && command.state !== 'delivered';
}
