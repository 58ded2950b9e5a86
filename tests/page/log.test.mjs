// The gateway view where a push fails and readings are lost, and over a restart of the gateway.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { Device } from './lib/device.mjs';
import { Rig } from './lib/processes.mjs';
import { withDemo } from './lib/suite.mjs';

// Nobody listens on the discard port.
const stage = withDemo(() => Rig.start({
  settings: '[spool]\nmax_age = "1s"\n[[push]]\nname = "metrics"\nurl = "http://127.0.0.1:9/write"\n',
}));
const region = (view, name) => view.page.getByRole('region', { name, exact: true });

test('a push that fails is said to be tried again, with the reason', async () => {
  const device = await Device.connect(stage.gateway, 'pushing');
  device.send({ value: 1 });
  const view = await stage.open('/#/gateway');
  await view.reads(region(view, 'Push'), /metrics\s+retrying[\s\S]*0 sent, [\d]+ waiting, 0 dropped/);
  await device.leave();
});

test('the line about a loss leads to the device that lost', async () => {
  const view = await stage.open('/#/gateway');
  const device = await Device.connect(stage.gateway, 'named');
  await stage.gateway.broker.kill();
  device.send({ value: 1 });
  const link = region(view, 'Log').getByRole('link', { name: 'named', exact: true }).first();
  await link.waitFor({ state: 'attached' });
  await stage.gateway.startBroker();
  // The line need not be in view.
  await link.evaluate((node) => node.click());
  await view.until(() => location.hash === '#/devices/named');
  await view.page.getByRole('heading', { name: 'named' }).waitFor();
  await device.leave();
});

test('after a restart the log goes on below what was there', async () => {
  const view = await stage.open('/#/gateway');
  const log = view.page.getByRole('log', { name: 'Log' });
  await log.getByText('connected to the broker').first().waitFor({ state: 'attached' });
  const before = await log.getByRole('listitem').allTextContents();
  await stage.gateway.gateway.kill();
  await view.link('lost');
  await stage.gateway.startGateway();
  await view.live();
  await view.until((was) => [...document.querySelectorAll('[role=log] li')]
    .filter((line) => line.textContent.includes('connected to the broker')).length > was,
  before.filter((line) => line.includes('connected to the broker')).length);
  const after = await log.getByRole('listitem').allTextContents();
  assert.deepEqual(after.slice(0, before.length), before);
  view.forgive();
});
