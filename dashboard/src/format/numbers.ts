// How numbers and units read. Pure: nothing here touches the page.

import type { Reading } from '../api/types.ts';

// SenML units (RFC 8428 section 12.1, RFC 8798) that people write differently.
const UNITS: Record<string, string> = {
  Cel: '°C', '%RH': '% RH', '%EL': '%', EL: 's', Ohm: 'Ω', l: 'L', 'l/s': 'L/s',
  m2: 'm²', m3: 'm³', 'm3/s': 'm³/s', 'm/s2': 'm/s²', 'W/m2': 'W/m²', 'cd/m2': 'cd/m²',
  'kg/m3': 'kg/m³', 'ug/m3': 'µg/m³', 'beat/min': 'bpm', '1/s': '/s', '1/min': '/min',
  '/100': '%', '/1000': '‰', deg: '°', lat: '°', lon: '°', count: '', '/': '', XY: '',
};

const BINARY = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
const DECIMAL = ['bit/s', 'kbit/s', 'Mbit/s', 'Gbit/s'];

const formats = new Map<number, Intl.NumberFormat>();

/** A number with a fixed count of decimals, thousands grouped by a thin space. */
export function decimal(value: number, decimals: number): string {
  let format = formats.get(decimals);
  if (!format) {
    format = new Intl.NumberFormat('en-GB', { minimumFractionDigits: decimals, maximumFractionDigits: decimals });
    formats.set(decimals, format);
  }
  // What rounds to zero has no sign.
  return format.format(value).replace(/^-(?=[0.]+$)/, '').replaceAll(',', '\u202f').replace('-', '−');
}

// The decimals a number needs for four significant digits, at most three.
function decimalsOf(value: number): number {
  const room = roomFor(Math.abs(value));
  const digits = value.toFixed(room).replace(/\.?0+$/, '').split('.')[1];
  return room === 0 ? 0 : digits?.length ?? 0;
}

function roomFor(size: number): number {
  if (size >= 1000) return 0;
  if (size >= 100) return 1;
  return size >= 10 ? 2 : 3;
}

function scaled(value: number, steps: readonly string[], base: number): [number, string] {
  let step = 0;
  while (Math.abs(value) >= base && step < steps.length - 1) {
    value /= base;
    step += 1;
  }
  return [value, steps[step] ?? ''];
}

/** A unit as people write it. */
export function unitText(unit: string | null | undefined): string {
  return unit ? UNITS[unit] ?? unit : '';
}

/** What a reading says. */
export interface Shown {
  text: string;
  unit: string;
  /** What the number used; give it back for the next one. */
  decimals: number;
  /** Text rather than a number. */
  words?: boolean;
}

/** Words for what is no number. */
export interface Words {
  yes: string;
  no: string;
  bytes(count: number): string;
}

/**
 * What a reading says. `decimals` is what the same reading used before, so that a value does not
 * change its width with every message.
 */
export function shownReading(reading: Reading, words: Words, decimals = 0): Shown {
  if (typeof reading.v === 'number') return shownNumber(reading.v, reading.u, decimals);
  if (typeof reading.vb === 'boolean') {
    return { text: reading.vb ? words.yes : words.no, unit: '', decimals, words: true };
  }
  if (typeof reading.vs === 'string') {
    return { text: reading.vs + (reading.full_length ? '…' : ''), unit: '', decimals, words: true };
  }
  if (typeof reading.vd === 'string') {
    const length = reading.full_length ?? Math.floor(reading.vd.length * 3 / 4);
    return { text: words.bytes(length), unit: '', decimals, words: true };
  }
  if (typeof reading.s === 'number') {
    const sum = shownNumber(reading.s, reading.u, decimals);
    return { ...sum, text: `Σ ${sum.text}` };
  }
  return { text: '–', unit: '', decimals };
}

/** By what numbers of about `size` are multiplied, and the unit they then have. */
export function scaleOf(size: number, senml?: string | null): { factor: number; unit: string } {
  if (senml === 'Pa' && size >= 10000) return { factor: 0.01, unit: 'hPa' };
  const [steps, base] = senml === 'bit/s' ? [DECIMAL, 1000] as const : [BINARY, 1024] as const;
  if (senml !== 'B' && senml !== 'B/s' && senml !== 'bit/s') return { factor: 1, unit: unitText(senml) };
  const [value, unit] = scaled(size, steps, base);
  return { factor: size > 0 ? value / size : 1, unit: senml === 'B/s' ? `${unit}/s` : unit };
}

/** A number with its unit. `decimals` as in {@link shownReading}. */
export function shownNumber(value: number, senml?: string | null, decimals = 0): Shown {
  const { factor, unit } = scaleOf(Math.abs(value), senml);
  value *= factor;
  const size = Math.abs(value);
  if (size >= 1e9 || (size > 0 && size < 0.0005)) {
    return { text: value.toPrecision(4).replace('-', '−'), unit, decimals };
  }
  // A number that has grown by a digit gives a decimal back.
  const used = Math.min(Math.max(decimalsOf(value), decimals), roomFor(size));
  return { text: decimal(value, used), unit, decimals: used };
}

/** A count of bytes in a unit that fits. */
export function bytes(count: number): string {
  const [value, unit] = scaled(count, BINARY, 1024);
  return `${decimal(value, unit === 'B' || value >= 100 ? 0 : 1)}\u00a0${unit}`;
}

/** Something per second: one decimal as long as it counts, so that the figure keeps its width. */
export function rate(value: number): string {
  return decimal(value, value >= 99.95 ? 0 : 1);
}

/** A rate or another figure with no more decimals than help. */
export function figure(value: number): string {
  return decimal(value, value >= 100 || Number.isInteger(value) ? 0 : 1);
}
