// Which entries of the log are shown. Pure.

import type { Level, LogEntry } from '../../api/types.ts';

/** The most serious first. */
export const LEVELS: readonly Level[] = ['error', 'warn', 'info', 'debug', 'trace'];

/** Whether the entry is as serious as `level` and has every word of `find` somewhere. */
export function fits(entry: LogEntry, level: Level, find: string): boolean {
  if (LEVELS.indexOf(entry.level) > LEVELS.indexOf(level)) return false;
  const wanted = find.toLowerCase().split(/\s+/).filter(Boolean);
  if (wanted.length === 0) return true;
  const fields = Object.entries(entry.fields).map(([key, value]) => `${key}=${said(value)}`);
  const text = [entry.level, entry.target, entry.message, ...fields].join(' ').toLowerCase();
  return wanted.every((word) => text.includes(word));
}

/** A field's value in one line. */
export function said(value: unknown): string {
  return typeof value === 'string' ? value : JSON.stringify(value);
}
