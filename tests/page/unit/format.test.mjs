// How values and times read.

import assert from 'node:assert/strict';
import test from 'node:test';

import { bytes, shownReading } from '../../../dashboard/src/format/numbers.ts';
import { span, moment, utc } from '../../../dashboard/src/format/times.ts';
import { words } from '../../../dashboard/src/i18n/en/words.ts';
import { plain } from '../lib/page.mjs';

const shown = (record, decimals) => {
  const { text, unit } = shownReading(record, words, decimals);
  return plain(`${text} ${unit}`.trim());
};

test('numbers come with the unit that people write', () => {
  for (const [v, u, expected] of [
    [21.5, 'Cel', '21.5 °C'],
    [-18.25, 'Cel', '−18.25 °C'],
    [61, '%RH', '61 % RH'],
    [101325, 'Pa', '1 013 hPa'],
    [250, 'Pa', '250 Pa'],
    [1480, '1/min', '1 480 /min'],
    [0.0123, 'm3/s', '0.012 m³/s'],
    [0.00012, 'm', '0.0001200 m'],
    [1234567, 'B', '1.177 MiB'],
    [2500, 'B/s', '2.441 KiB/s'],
    [1.5e6, 'bit/s', '1.5 Mbit/s'],
    [0.34, '/', '0.34'],
    [7, 'furlong', '7 furlong'],
    [0, undefined, '0'],
  ]) assert.equal(shown({ v, u, t: 0 }), expected);
});

test('other kinds of value read as what they are', () => {
  assert.equal(shown({ vb: true }), 'yes');
  assert.equal(shown({ vb: false }), 'no');
  assert.equal(shown({ vs: 'idle' }), 'idle');
  assert.equal(shown({ vs: 'begin', full_length: 4000 }), 'begin…');
  assert.equal(shown({ vd: 'AQIDBA' }), '4 bytes');
  assert.equal(shown({ vd: 'AQIDBA', full_length: 4000 }), '4000 bytes');
  assert.equal(shown({ s: 4.5, u: 'kWh' }), 'Σ 4.5 kWh');
  assert.equal(shown({}), '–');
});

test('a reading keeps the decimals it had, until it has grown too large for them', () => {
  const { decimals } = shownReading({ v: 21.25, u: 'Cel' }, words);
  assert.equal(shown({ v: 22, u: 'Cel' }, decimals), '22.00 °C');
  assert.equal(shown({ v: 222, u: 'Cel' }, decimals), '222.0 °C');
});

test('spans, moments and sizes', () => {
  assert.deepEqual([-5, 0, 59.9, 60, 3600, 90000, 864000].map((s) => plain(span(s, words.span))),
    ['0 s', '0 s', '59 s', '1 min', '1 h', '1 d', '10 d']);
  assert.deepEqual([0, 1023, 1536, 512 * 2 ** 20].map((n) => plain(bytes(n))),
    ['0 B', '1 023 B', '1.5 KiB', '512 MiB']);
  assert.match(moment(86400 * 3, 0, 'en-GB'), /^\d\d\/\d\d\/1970 /);
  assert.equal(utc(1.5), '1970-01-01 00:00:01.500 UTC');
});
