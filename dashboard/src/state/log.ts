// The tail of the gateway's log.

import { signal } from '@preact/signals';

import type { LogEntry } from '../api/types.ts';

const KEPT = 1000;

/** An entry with the run of the gateway it is from: numbers begin anew when the gateway does. */
export interface Line extends LogEntry {
  run: number;
}

/** Oldest first; a new array with each change. */
export const log = signal<readonly Line[]>([]);

let run = 0;
const waiting: LogEntry[] = [];
let frame = 0;

/** Takes an entry from the feed. What shows the log is told once per frame. */
export function takeLog(entry: LogEntry): void {
  waiting.push(entry);
  if (waiting.length > KEPT) waiting.splice(0, waiting.length - KEPT);
  frame ||= requestAnimationFrame(settle);
}

/** The gateway has started anew: entries from now on follow those that are known. */
export function nextRun(): void {
  settle();
  run += 1;
}

/** Adds entries that may be known already, in any order. */
export function mergeLog(entries: readonly LogEntry[]): void {
  const byNumber = new Map<string, Line>();
  for (const line of log.peek()) byNumber.set(`${line.run}/${line.number}`, line);
  for (const entry of entries) {
    const key = `${run}/${entry.number}`;
    // What is known stays the same object, so that its line is not drawn anew.
    if (!byNumber.has(key)) byNumber.set(key, { ...entry, run });
  }
  const lines = [...byNumber.values()];
  log.value = lines.sort((a, b) => a.run - b.run || a.number - b.number).slice(-KEPT);
}

function settle(): void {
  if (frame) cancelAnimationFrame(frame);
  frame = 0;
  if (waiting.length > 0) mergeLog(waiting.splice(0));
}
