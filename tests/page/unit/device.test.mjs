// What the device's view is computed from: buckets, states, JSON, records of commands.

import assert from 'node:assert/strict';
import test from 'node:test';

import { mergeCommands } from '../../../dashboard/src/state/commands.ts';
import { checkJson } from '../../../dashboard/src/views/device/json.ts';
import { added, bars, joined, segments } from '../../../dashboard/src/views/device/segments.ts';
import { Series } from '../../../dashboard/src/views/device/series.ts';

const history = (points, more = {}) =>
  ({ name: 'n', unit: null, from: 0, to: 100, step_s: 10, states: [], points, ...more });

test('values of one bucket become its least, mean and greatest', () => {
  const series = new Series();
  for (const [time, value] of [[5.1, 1], [5.5, 4], [5.9, 1], [6.2, 7]]) series.add(time, value);
  const { starts, mins, means, maxs } = series.columns(0, 10);
  assert.deepEqual({ starts, mins, means, maxs }, { starts: [5, 6], mins: [1, 7], means: [2, 7], maxs: [4, 7] });
  assert.deepEqual(series.summary(0, 10), { min: 1, mean: 3.25, max: 7 });
  assert.equal(series.summary(20, 30), null);
});

test('a value that comes late goes where it belongs', () => {
  const series = new Series();
  for (const time of [1, 3, 2]) series.add(time, time);
  assert.deepEqual(series.columns(0, 10).means, [1, 2, 3]);
});

test('a gap is a gap, and a slow reading has none', () => {
  const series = new Series();
  for (const time of [1, 2, 3, 20, 21]) series.add(time, 1);
  assert.deepEqual(series.columns(0, 30).means, [1, 1, 1, null, 1, 1]);
  const slow = new Series();
  for (const time of [10, 20, 30, 40]) slow.add(time, 1);
  assert.ok(!slow.columns(0, 50).means.includes(null));
});

test('history replaces what is here, and what came after it stays', () => {
  const series = new Series();
  series.add(95, 1000);
  series.add(101, 7);
  series.add(112, 9);
  series.seed(history([[80, 1, 2, 3], [90, 1, 2, 3]]));
  const { starts, means } = series.columns(0, 200);
  assert.deepEqual(starts, [80, 90, 100, 110]);
  assert.deepEqual(means, [2, 2, 7, 9]);
});

test('without history the chart goes on with what came, each value once', () => {
  const series = new Series();
  series.add(1, 10);
  series.add(2, 20, true);
  assert.deepEqual(series.columns(0, 9).means, [10], 'what is held back is not shown');
  series.seed(history([]));
  series.seed(history([]));
  assert.deepEqual(series.columns(0, 9).means, [10, 20]);
  series.add(2.5, 40);
  assert.deepEqual(series.columns(0, 9).means, [10, 30]);
});

test('no bucket is drawn later than its newest value', () => {
  const series = new Series();
  series.seed(history([[80, 1, 1, 1], [90, 1, 1, 1]], { to: 91 }));
  assert.deepEqual(series.columns(0, 200).times, [85, 91]);
});

test('the buckets stay bounded, and keep least and greatest', () => {
  const series = new Series();
  for (let time = 0; time < 10_000; time += 1) series.add(time, time === 5000 ? 99 : 1);
  assert.ok(series.columns(0, 10_000).times.length <= 2400);
  assert.deepEqual(series.summary(0, 10_000).max, 99);
});

test('only what is far older than the time shown is forgotten', () => {
  const series = new Series();
  for (let time = 0; time < 10; time += 1) series.add(time, time);
  series.trim(5);
  assert.deepEqual(series.columns(0, 10).starts, [3, 4, 5, 6, 7, 8, 9]);
});

test('states last until they change, and the last until it was heard of', () => {
  const changes = [[0, 'idle'], [10, 'running'], [30, 'idle']];
  assert.deepEqual(segments(changes, 5, 50, 40), [
    { from: 5, to: 10, value: 'idle' }, { from: 10, to: 30, value: 'running' }, { from: 30, to: 40, value: 'idle' },
  ]);
  assert.deepEqual(segments(changes, 40, 50, 35), []);
});

test('a value that repeats or comes late changes nothing', () => {
  const changes = [[10, true]];
  assert.equal(added(changes, 11, true), changes);
  assert.equal(added(changes, 9, false), changes);
  assert.deepEqual(added(changes, 12, false), [[10, true], [12, false]]);
  assert.deepEqual(joined([[1, true]], 20, [[10, false], [25, false]]), [[1, true], [25, false]]);
  assert.equal(joined([], 20, changes), changes);
});

test('segments too short to be seen are drawn as one', () => {
  const found = [[0, 50], [50, 51], [51, 52], [52, 53], [53, 90]]
    .map(([from, to], index) => ({ from, to, value: index % 2 === 0 }));
  assert.deepEqual(bars(found, 2).map(({ value, count }) => [value, count]), [[true, 1], [null, 3], [true, 1]]);
});

test('JSON is accepted exactly when JSON.parse does, and its value is the same', () => {
  for (const text of ['{}', ' [1, -2.5e3, "a\\u00e4\\n", true, null, {"a": {}}] ', '0', '"x"', '[[]]',
    '', '{', '[1,]', '{"a" 1}', '{a: 1}', "'x'", '"x', '01', '1.', '[1 2]', '{} {}', '"\\q"', '"\t"',
    'nulls', '{"a":1,}', '+1', 'NaN', '{"a":}', ']', '-', '"\\u12"', '\u00a0 1', '[1,\n']) {
    let value;
    let right = true;
    try { value = JSON.parse(text); } catch { right = false; }
    const checked = checkJson(text);
    assert.equal(checked.ok, right, text);
    if (checked.ok) assert.deepEqual(checked.value, value);
  }
});

test('what is wrong in JSON is said with its place', () => {
  for (const [text, wrong, line, column] of [
    ['{"a": 1,}', 'comma-end', 1, 8],
    ['{\n  "a": 1\n  "b": 2\n}', 'comma', 3, 3],
    ['{a: 1}', 'key', 1, 2],
    ["{'a': 1}", 'quote', 1, 2],
    ['{"a" 1}', 'colon', 1, 6],
    ['{"a": "x}', 'string-end', 1, 7],
    ['{"a": 01}', 'number', 1, 7],
    ['{"a": True}', 'value', 1, 7],
    ['"a\\x"', 'escape', 1, 3],
    ['[1, 2', 'end', 1, 6],
    ['1 2', 'more', 1, 3],
  ]) {
    const { wrong: found, line: l, column: c } = checkJson(text);
    assert.deepEqual([found, l, c], [wrong, line, column], text);
  }
  assert.equal(checkJson('['.repeat(100_000)).ok, false, 'depth is no danger');
});

test('a command is listed once, in its newest state, newest first', () => {
  const record = (id, accepted, state, time) => ({ id, device: 'd', name: 'n', accepted, state, time });
  const list = mergeCommands([], [record('a', 1, 'done', 3), record('b', 2, 'queued', 2)], 10);
  assert.deepEqual(list.map(({ id }) => id), ['b', 'a']);
  const late = mergeCommands(list, [record('a', 1, 'queued', 1), record('b', 2, 'delivered', 2)], 10);
  assert.deepEqual(late.map(({ state }) => state), ['delivered', 'done']);
  assert.equal(mergeCommands(late, [record('c', 9, 'queued', 9)], 2).length, 2);
});
