// The gateway view: the machine, the limits, the log and the configuration.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { assertAccessible } from './lib/accessible.mjs';
import { LOOKS, withDemo } from './lib/suite.mjs';

const stage = withDemo();
const open = async (options) => {
  const view = await stage.open('/#/gateway', options);
  await region(view, 'Machine').waitFor();
  return view;
};
const region = (view, name) => view.page.getByRole('region', { name, exact: true });
// Lines that are not in view are not drawn, but are there.
const logged = (view, text) => log(view).getByText(text).first().waitFor({ state: 'attached' });
const log = (view) => view.page.getByRole('log', { name: 'Log' });

for (const { look, options } of LOOKS) {
  test(`the gateway view is accessible and nothing runs over: ${look}`, async () => {
    const view = await open(options);
    await logged(view, 'connected to the broker');
    await assertAccessible(view);
    assert.ok(!await view.overflows(), 'the page scrolls sideways');
  });
}

test('the machine and the process are as the gateway says', async () => {
  const view = await open();
  const about = await view.api('/gateway');
  await view.reads(region(view, 'Machine'), / GiB of .* GiB/);
  await view.reads(region(view, 'Process'), /Memory in use\s+[\d.]+ MiB/);
  await view.page.getByText(about.machine.kernel, { exact: false }).first().waitFor();
});

test('limits stand with the nearest first', async () => {
  const view = await open();
  const { limits } = await view.api('/gateway');
  await region(view, 'Limits').getByRole('meter').first().waitFor();
  const meters = await region(view, 'Limits').getByRole('meter')
    .evaluateAll((found) => found.map((meter) => Number(meter.ariaValueNow)));
  assert.equal(meters.length, limits.length);
  assert.deepEqual(meters, [...meters].sort((a, b) => b - a));
});

test('the configuration in force is shown as it would be written', async () => {
  const view = await open();
  const { configuration } = await view.api('/gateway');
  const shown = region(view, 'Configuration in force');
  await view.reads(shown, new RegExp(`\\[mqtt\\][\\s\\S]*url = "${configuration.mqtt.url}"`));
  for (const table of Object.keys(configuration)) await shown.getByText(`[${table}]`, { exact: true }).waitFor();
});

test('the log has what was before, and what comes', async () => {
  const view = await open();
  await logged(view, 'connected to the broker');
  const before = await log(view).getByRole('listitem').count();
  // Reading the registry again is worth an entry.
  stage.gateway.signal('SIGHUP');
  await view.until((count) => document.querySelectorAll('[role=log] li').length > count, before);
});

test('the log is searched, and chosen by level', async () => {
  const view = await open();
  const lines = log(view).getByRole('listitem');
  await logged(view, 'connected to the broker');
  await view.page.getByRole('searchbox', { name: 'Search the log' }).fill('BROKER connected');
  await view.until(() => [...document.querySelectorAll('[role=log] li')]
    .every((line) => line.textContent.includes('connected to the broker')));
  assert.ok(await lines.count() > 0);
  await view.page.getByRole('searchbox', { name: 'Search the log' }).fill('no such words');
  await logged(view, 'No entry fits.');
  await view.page.getByRole('searchbox', { name: 'Search the log' }).fill('');
  await view.page.getByRole('combobox', { name: 'From level' }).selectOption('error');
  await view.until(() => [...document.querySelectorAll('[role=log] li')]
    .every((line) => line.dataset.level === 'error'));
});

test('a paused log stands still and says how much is newer', async () => {
  const view = await open();
  await logged(view, 'connected to the broker');
  await view.page.getByRole('button', { name: 'Pause' }).click();
  const before = await log(view).textContent();
  stage.gateway.signal('SIGHUP');
  await view.reads(region(view, 'Log'), /\d+ newer/);
  assert.equal(await log(view).textContent(), before);
  await view.page.getByRole('button', { name: 'Resume' }).click();
  await view.until((was) => document.querySelector('[role=log]').textContent !== was, before);
});
