// What the overview says, chooses, orders and draws.

import assert from 'node:assert/strict';
import test from 'node:test';

import { overview } from '../../../dashboard/src/i18n/en/overview.ts';
import { overview as korean } from '../../../dashboard/src/i18n/ko/overview.ts';
import { words } from '../../../dashboard/src/i18n/en/words.ts';
import { words as koreanWords } from '../../../dashboard/src/i18n/ko/words.ts';
import { paths, range } from '../../../dashboard/src/parts/line.ts';
import { select, tally } from '../../../dashboard/src/views/overview/select.ts';
import { findings, outlook } from '../../../dashboard/src/views/overview/summary.ts';
import { MOST, SPAN, Trend } from '../../../dashboard/src/views/overview/trend.ts';
import { columnsIn, part, step } from '../../../dashboard/src/views/overview/window.ts';

const plain = (text) => text.replace(/[\u00a0\u202f]/g, ' ');

const base = () => ({
  uplink: { state: 'connected', since: 100, last_error: null },
  spool: {
    batches: 0, readings: 0, bytes: 0, max_bytes: 1000, oldest_age_s: null, lost_readings: 0,
    full_in_s: null, drained_in_s: null, lasts_s: null, disk_written_today_bytes: null,
  },
  devices: { connected: 1, known: 1 },
});

function all(change, seen = {}, texts = overview.summary, spans = words.span) {
  const status = base();
  change(status);
  const quiet = { now: 400, rejected: 0, lost: 0, stale: [], offline: [] };
  return findings(status, { ...quiet, ...seen }, texts, spans)
    .map(({ level, text }) => [level, plain(text)]);
}
const told = (change, seen) => all(change, seen)[0];

test('the first sentence says what becomes of the readings', () => {
  assert.deepEqual(all(() => {}), [['ok', 'All is well: readings reach the broker as they arrive.']]);
  assert.deepEqual(told((s) => { s.devices.connected = 0; }),
    ['notice', 'The broker is connected; no device is.']);
  assert.deepEqual(told((s) => { s.uplink.state = 'connecting'; }), ['notice', 'Connecting to the broker.']);
  assert.deepEqual(
    told((s) => { s.uplink = { state: 'disconnected', since: 100, last_error: 'connection refused' }; }),
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
  assert.deepEqual(
    told((s) => { Object.assign(s.spool, { batches: 1, bytes: 100, drained_in_s: 0.2 }); }),
    ['notice', 'The broker is connected and gets what was buffered: 1 batch (100 B) to go. '
      + 'It will be empty in about 1 s.'],
  );
  assert.deepEqual(told((s) => { s.spool.lost_readings = 1; }),
    ['warn', 'Readings reach the broker as they arrive. 1 reading has been lost.']);
  assert.equal(told((s) => { s.spool.lost_readings = 1; }, { lost: 1 })[0], 'bad');
});

test('an outage says which limit comes first, and a full buffer is bad', () => {
  const away = (spool) => told((s) => {
    s.uplink = { state: 'disconnected', since: 100, last_error: null };
    Object.assign(s.spool, { batches: 20, bytes: 2048 }, spool);
  });
  assert.equal(away({ full_in_s: 0, lasts_s: 0 })[0], 'bad');
  assert.match(away({ full_in_s: 0, lasts_s: 0 })[1], / so far\. The buffer is full\.$/);
  assert.match(away({ lasts_s: 7200 })[1], / reach the age limit in 2 h\.$/);
  assert.match(away({})[1], / so far\.$/);
});

test('what is worst comes first, and nothing is left out', () => {
  const found = all((s) => {
    s.uplink = { state: 'disconnected', since: 100, last_error: null };
    s.commands = { fault: 'no space left on device', damaged: 2 };
    s.push = [
      { name: 'lab', state: 'retrying', last_error: 'timed out', queued_readings: 12 },
      { name: 'fine', state: 'ok', last_error: null, queued_readings: 0 },
    ];
  }, { rejected: 3, stale: ['a'], offline: ['b', 'c', 'd', 'e', 'f'] });
  assert.deepEqual(found.map(([level]) => level), ['bad', 'warn', 'warn', 'warn', 'warn', 'notice', 'notice']);
  const texts = found.map(([, text]) => text);
  assert.match(texts[0], /^Commands cannot be recorded: no space left on device\./);
  assert.match(texts[1], /^The broker has been away/);
  assert.ok(texts.includes("3 batches were rejected in the last minute; the device's view says why."));
  assert.ok(texts.includes('The push to lab does not get through: timed out. 12 readings wait for it.'));
  assert.ok(texts.includes('a is connected but has fallen silent.'));
  assert.ok(texts.includes('5 devices are offline: b, c, d and 2 others.'));
  assert.ok(!texts.some((text) => text.includes('fine')));
});

test('Korean says the same without a space before the unit', () => {
  const away = (s) => { s.uplink = { state: 'disconnected', since: 100, last_error: null }; };
  assert.deepEqual(all(away, {}, korean.summary, koreanWords.span),
    [['warn', '브로커 연결이 5분째 끊겨 있습니다. 아직 대기 중인 값은 없습니다.']]);
});

test('the outlook says how long the buffer lasts and what the disk took, as far as is known', () => {
  const shown = (spool, state = 'connected') => {
    const status = base();
    status.uplink.state = state;
    Object.assign(status.spool, spool);
    return outlook(status, overview.figures, words.span).map(plain);
  };
  assert.deepEqual(shown({}), []);
  assert.deepEqual(shown({ lasts_s: undefined, disk_written_today_bytes: undefined }), []);
  assert.deepEqual(shown({ lasts_s: 200000 }), ['lasts 2 d without the broker']);
  assert.deepEqual(shown({ lasts_s: 0 }), ['full']);
  assert.deepEqual(shown({ full_in_s: 120, lasts_s: 60 }, 'disconnected'), ['full in 2 min']);
  assert.deepEqual(shown({ batches: 3, drained_in_s: 0.5, lasts_s: 60 }), ['empty in 1 s']);
  assert.deepEqual(shown({ lasts_s: 3600, disk_written_today_bytes: 14 * 2 ** 20 }),
    ['lasts 1 h without the broker', '14.0 MiB written today']);
});

const entry = (id, state, heard, model = null) => ({ id, state, heard, model, firmware: null });
const fleet = [
  entry('a', 'online', 998), entry('b', 'offline', 100), entry('c', 'stale', 900, 'Kiln mk2'),
  entry('d', 'never', null), entry('e', 'online', 995, 'Pump'),
];
const chosen = (wanted) => select(fleet, { which: 'all', order: 'name', text: '', ...wanted }, 1000).join('');

test('devices are chosen by state and words, and ordered as asked', () => {
  assert.deepEqual(tally(fleet), { online: 2, stale: 1, offline: 1, never: 1 });
  assert.equal(chosen({}), 'abcde');
  assert.equal(chosen({ which: 'online' }), 'ae');
  assert.equal(chosen({ text: ' KILN  mk' }), 'c');
  assert.equal(chosen({ text: 'kiln pump' }), '');
  assert.equal(chosen({ order: 'state' }), 'cbdae');
  assert.equal(chosen({ order: 'newest' }), 'aecbd');
  assert.equal(chosen({ order: 'oldest' }), 'bcaed');
});

test('devices that send as they should keep their places when ordered by time', () => {
  const turned = fleet.map((one) => (one.id === 'e' ? { ...one, heard: 999.9 } : one));
  assert.equal(select(turned, { which: 'all', order: 'newest', text: '' }, 1000).join(''), 'aecbd');
});

test('only the rows in view are drawn, whatever the scroll', () => {
  const layout = { count: 2000, columns: 4, pitch: 200 };
  assert.deepEqual(part(layout, 300, 900, 0), { first: 0, end: 12, above: 0, height: 100000 });
  assert.deepEqual(part(layout, -10000, 900, 200), { first: 196, end: 224, above: 9800, height: 100000 });
  assert.deepEqual(part(layout, -99800, 900, 0), { first: 1996, end: 2000, above: 99800, height: 100000 });
  for (const top of [-1e7, -100000, -55555, 0, 1e7]) {
    const { first, end } = part(layout, top, 900, 300);
    assert.ok(first >= 0 && first <= end && end <= 2000 && end - first <= 4 * 10, `${top}: ${first} ${end}`);
  }
  assert.deepEqual(part({ ...layout, count: 0 }, 0, 900, 0), { first: 0, end: 0, above: 0, height: 0 });
});

test('columns fill the width, and there is always one', () => {
  assert.deepEqual([200, 304, 617, 622, 1300].map((width) => columnsIn(width, 304, 14)), [1, 1, 1, 2, 4]);
});

test('keys lead to the neighbours and no further', () => {
  const layout = { count: 10, columns: 4, pitch: 1 };
  const from = (at) => ['ArrowLeft', 'ArrowRight', 'ArrowUp', 'ArrowDown', 'Home', 'End', 'x']
    .map((key) => step(key, at, layout));
  assert.deepEqual(from(0), [null, 1, null, 4, null, 9, null]);
  assert.deepEqual(from(5), [4, 6, 1, 9, 0, 9, null]);
  assert.deepEqual(from(9), [8, null, 5, null, 0, null, null]);
});

test('a trend is bounded, and reaches back as far as it may', () => {
  const trend = new Trend();
  for (let t = 0; t < 3600; t += 0.5) trend.add(t, t);
  assert.ok(trend.samples.length <= MOST && trend.samples.length > MOST / 4, `${trend.samples.length}`);
  const [first, last] = [trend.samples[0], trend.samples.at(-1)];
  assert.ok(first[0] < 3600 - SPAN + 60 && last[0] > 3600 - 20, `${first} ${last}`);
  assert.ok(trend.samples.every(([t, v]) => Math.abs(t - v) < 20), 'means belong to their times');
  assert.ok(trend.samples.every(([t], n, s) => n === 0 || t > s[n - 1][0]), 'in order');
  assert.equal(trend.start(3600), Math.max(3600 - SPAN, first[0]));
});

test('what the gateway remembers fills the gap, and what came after it stays', () => {
  const trend = new Trend();
  for (const t of [100, 110, 205]) trend.add(t, 1);
  trend.seed({ step_s: 10, points: [[100, 0, 5, 9], [150, 0, 6, 9], [190, 0, 7, 9]] });
  assert.deepEqual(trend.samples, [[105, 5], [155, 6], [195, 7], [205, 1]]);
  trend.seed({ step_s: 10, points: [] });
  assert.equal(trend.samples.length, 4, 'a gateway that remembers nothing takes nothing away');
});

test('a line is interrupted where nothing is known', () => {
  const frame = { from: 0, to: 100, min: 0, max: 10, width: 100, height: 20, gap: 15 };
  const { line, area } = paths([[0, 0], [10, 10], [50, 5], [60, 5], [90, 0]], frame);
  assert.equal(line, 'M0.0,20.0L10.0,0.0M50.0,10.0L60.0,10.0M90.0,20.0h0');
  assert.equal(area.match(/Z/g).length, 2);
  assert.deepEqual(paths([], frame), { line: '', area: '' });
});

test('the noise of a steady value stays small', () => {
  const [min, max] = range([[0, 1000], [1, 1000.1]]);
  assert.ok(max - min >= 10, `${min} ${max}`);
  assert.deepEqual(range([]), [0, 1]);
});
