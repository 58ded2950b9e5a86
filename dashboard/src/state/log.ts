// The tail of the gateway's log.

import { signal } from '@preact/signals';

import type { LogEntry } from '../api/types.ts';

const KEPT = 1000;

/** Oldest first; a new array with each change. */
export const log = signal<readonly LogEntry[]>([]);

const waiting: LogEntry[] = [];
let frame = 0;

export function takeLog(entry: LogEntry): void {
  waiting.push(entry);
  if (waiting.length > KEPT) waiting.splice(0, waiting.length - KEPT);
  frame ||= requestAnimationFrame(() => {
    frame = 0;
    mergeLog(waiting.splice(0));
  });
}

/** Adds entries that may be known already, in any order. */
export function mergeLog(entries: readonly LogEntry[]): void {
  const byNumber = new Map<number, LogEntry>();
  for (const entry of [...log.peek(), ...entries]) byNumber.set(entry.number, entry);
  log.value = [...byNumber.values()].sort((a, b) => a.number - b.number).slice(-KEPT);
}
