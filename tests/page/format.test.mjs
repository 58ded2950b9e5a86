// How values, times and states read.

import assert from 'node:assert/strict';
import test from 'node:test';

import { age, bytes, count, moment, outlook, reading, span, summary } from '../../dashboard/format.js';

const plain = (text) => text.replace(/[\u00a0\u202f]/g, ' ');
const shown = (record, decimals) => {
  const { text, unit } = reading(record, decimals);
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
  const { decimals } = reading({ v: 21.25, u: 'Cel' });
  assert.equal(shown({ v: 22, u: 'Cel' }, decimals), '22.00 °C');
  assert.equal(shown({ v: 222, u: 'Cel' }, decimals), '222.0 °C');
});

test('spans, ages, sizes and counts', () => {
  assert.deepEqual([-5, 0, 59.9, 60, 3600, 90000, 864000].map(span).map(plain),
    ['0 s', '0 s', '59 s', '1 min', '1 h', '1 d', '10 d']);
  assert.deepEqual([-3, 0, 1.4, 2].map(age).map(plain), ['now', 'now', 'now', '2 s']);
  assert.deepEqual([0, 1023, 1536, 512 * 2 ** 20].map(bytes).map(plain),
    ['0 B', '1 023 B', '1.5 KiB', '512 MiB']);
  assert.equal(plain(count(1, 'batch', 'batches')), '1 batch');
  assert.equal(plain(count(1204, 'batch', 'batches')), '1 204 batches');
  assert.match(moment(86400 * 3, 0), /^\d\d\/\d\d\/1970 /);
});

const base = () => ({
  uplink: { state: 'connected', since: 100, last_error: null },
  spool: {
    batches: 0, readings: 0, bytes: 0, max_bytes: 1000, oldest_age_s: null, lost_readings: 0,
    full_in_s: null, drained_in_s: null,
  },
  devices: { connected: 1, known: 1 },
});

function told(change) {
  const status = base();
  change(status);
  const { level, text } = summary(status, 400);
  return [level, plain(text)];
}

test('the summary says what is wrong, worst first', () => {
  assert.deepEqual(told(() => {}),
    ['ok', 'All is well: readings reach the broker as they arrive.']);
  assert.deepEqual(told((s) => { s.devices.connected = 0; }),
    ['notice', 'The broker is connected; no device is.']);
  assert.deepEqual(told((s) => { s.uplink.state = 'connecting'; }),
    ['notice', 'Connecting to the broker.']);
  assert.deepEqual(
    told((s) => {
      s.uplink = { state: 'disconnected', since: 100, last_error: 'connection refused' };
    }),
    ['warn', 'The broker has been away for 5 min: connection refused. Nothing is waiting yet.'],
  );
  assert.deepEqual(
    told((s) => {
      s.uplink = { state: 'connecting', since: 100, last_error: 'connection refused' };
      Object.assign(s.spool, { batches: 20, bytes: 2048, full_in_s: 7200 });
    }),
    ['warn', 'The broker has been away for 5 min: connection refused. Readings are kept on disk: '
      + '20 batches (2.0 KiB) so far. At this rate the buffer is full in 2 h.'],
  );
  const away = (spool) => told((s) => {
    s.uplink = { state: 'disconnected', since: 100, last_error: null };
    Object.assign(s.spool, { batches: 20, bytes: 2048 }, spool);
  })[1];
  assert.match(away({ full_in_s: 0, lasts_s: 0 }), / so far\. The buffer is full\.$/);
  assert.match(away({ full_in_s: null, lasts_s: 7200 }), / reach the age limit in 2 h\.$/);
  assert.match(away({ full_in_s: null }), / so far\.$/);
  assert.deepEqual(
    told((s) => { Object.assign(s.spool, { batches: 1, bytes: 100, drained_in_s: 0.2 }); }),
    ['notice', 'The broker is connected and gets what was buffered: 1 batch (100 B) to go. '
      + 'It will be empty in about 1 s.'],
  );
  assert.deepEqual(told((s) => { s.spool.lost_readings = 1; }),
    ['warn', 'Readings reach the broker as they arrive. 1 reading has been lost.']);
  const [level, text] = told((s) => {
    s.spool.fault = 'no space left on device';
    s.uplink.state = 'disconnected';
  });
  assert.equal(level, 'bad');
  assert.match(text, /^The buffer cannot be written: no space left on device\./);
});

test('the outlook says how long the buffer lasts and what the disk took, as far as is known', () => {
  const shown = (spool) => plain(outlook({ lasts_s: null, disk_written_today_bytes: null, ...spool }));
  assert.equal(shown({}), '');
  assert.equal(outlook({}), '', 'an older gateway says neither');
  assert.equal(shown({ lasts_s: 200000 }), 'lasts 2 d without the broker');
  assert.equal(shown({ lasts_s: 0 }), 'full');
  assert.equal(shown({ lasts_s: 3600, disk_written_today_bytes: 14 * 2 ** 20 }),
    'lasts 1 h without the broker, 14.0 MiB written today');
});
