// Settings as a configuration file would have them. Pure.

import type { Setting } from '../../api/types.ts';

export interface Table {
  /** `spool`, `devices.rate`; empty for what stands before every table. */
  path: string;
  entries: { key: string; value: string }[];
}

/** The tables in order, each with its own entries; tables without any are left out. */
export function tables(settings: { [key: string]: Setting }, path = ''): Table[] {
  const own: Table = { path, entries: [] };
  const below: Table[] = [];
  for (const [name, value] of Object.entries(settings)) {
    const whole = path ? `${path}.${key(name)}` : key(name);
    if (isTable(value)) below.push(...tables(value, whole));
    else if (Array.isArray(value) && value.length > 0 && value.every(isTable)) {
      value.forEach((one) => below.push(...tables(one, whole)));
    } else if (value !== null) own.entries.push({ key: key(name), value: written(value) });
  }
  return [...(own.entries.length > 0 ? [own] : []), ...below];
}

function isTable(value: Setting): value is { [key: string]: Setting } {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function key(name: string): string {
  return /^[\w-]+$/.test(name) ? name : JSON.stringify(name);
}

function written(value: Setting): string {
  if (Array.isArray(value)) return `[${value.map(written).join(', ')}]`;
  if (isTable(value)) {
    return `{ ${Object.entries(value).map(([name, one]) => `${key(name)} = ${written(one)}`).join(', ')} }`;
  }
  // A JSON string is a TOML basic string.
  return JSON.stringify(value);
}
