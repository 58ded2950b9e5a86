// What the gateway view computes: the configuration as text, and which log entries fit.

import assert from 'node:assert/strict';
import test from 'node:test';

import { fits } from '../../../dashboard/src/views/gateway/filter.ts';
import { tables } from '../../../dashboard/src/views/gateway/toml.ts';

const text = (settings) => tables(settings)
  .flatMap(({ path, entries }) => [`[${path}]`, ...entries.map(({ key, value }) => `${key} = ${value}`)])
  .join('\n');

test('settings read as they would stand in the file', () => {
  assert.equal(text({
    mqtt: { url: 'mqtt://h', version: 5, ca: null, topics: ['a', 'b'] },
    devices: { rate: { burst: 400 }, auth: 'none' },
    push: [{ name: 'a' }, { name: 'b "c"', headers: [] }],
    empty: {},
  }), [
    '[mqtt]', 'url = "mqtt://h"', 'version = 5', 'topics = ["a", "b"]',
    '[devices]', 'auth = "none"', '[devices.rate]', 'burst = 400',
    '[push]', 'name = "a"', '[push]', 'name = "b \\"c\\""', 'headers = []',
  ].join('\n'));
});

test('a log entry fits by level, and by every word anywhere in it', () => {
  const entry = {
    number: 1, time: 0, level: 'warn', target: 'tidegate::device', message: 'Connection refused',
    fields: { device: 'kiln-3', tries: 4 },
  };
  assert.ok(fits(entry, 'warn', ''));
  assert.ok(fits(entry, 'trace', ' '));
  assert.ok(!fits(entry, 'error', ''));
  assert.ok(fits(entry, 'info', 'KILN refused'));
  assert.ok(fits(entry, 'info', 'tries=4'));
  assert.ok(fits(entry, 'info', 'tidegate::device'));
  assert.ok(!fits(entry, 'info', 'kiln-4'));
});
