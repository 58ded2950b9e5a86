// One device: its charts, its connection, and its commands.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { assertAccessible } from './lib/accessible.mjs';
import { LOOKS, withDemo } from './lib/suite.mjs';

const stage = withDemo();

for (const { look, options } of LOOKS) {
  test(`the device view is accessible and nothing runs over: ${look}`, async () => {
    const view = await stage.open('/#/devices/pump-1', options);
    await view.reads(card(view, 'speed'), /mean [\d ]+/);
    await assertAccessible(view);
    assert.ok(!await view.overflows(), 'the page scrolls sideways');
  });
}

const card = (view, name) => view.page.getByRole('article', { name, exact: true });
const chart = (view, name) => view.page.getByRole('slider', { name: `Chart of ${name}` });

test('a chart has what came before the page was opened, and goes on live', async () => {
  const view = await stage.open('/#/devices/pump-1');
  await view.reads(card(view, 'speed'), /min [\s\S]*mean [\s\S]*max /);
  const end = async () => Number(await chart(view, 'speed').getAttribute('aria-valuemax'));
  const before = await end();
  await view.until((was) => {
    const slider = document.querySelector('[role=slider][aria-label="Chart of speed"]');
    return Number(slider.getAttribute('aria-valuemax')) > was + 1;
  }, before);
});

test('a chart can be read, zoomed and paused with the keyboard', async () => {
  const view = await stage.open('/#/devices/pump-1');
  await view.reads(card(view, 'speed'), /mean [\d ]+/);
  const slider = chart(view, 'speed');
  await slider.focus();
  await slider.press('Home');
  await view.reads(card(view, 'speed'), /\d\d:\d\d:\d\d UTC/);
  assert.match(await slider.getAttribute('aria-valuetext'), /^\d\d:\d\d:\d\d: /);
  await slider.press('+');
  const whole = view.page.getByRole('button', { name: /show the whole/ });
  await whole.waitFor();
  await slider.press('Escape');
  await whole.waitFor({ state: 'detached' });
  await slider.press('p');
  const end = await slider.getAttribute('aria-valuemax');
  const age = view.page.locator('.latest .came').first();
  await age.waitFor();
  await view.page.waitForFunction((from) => Date.now() > from + 2500, Date.now());
  assert.equal(await slider.getAttribute('aria-valuemax'), end, 'a paused chart moves');
  await view.page.getByRole('button', { name: 'Resume' }).click();
  await view.until((was) => document.querySelector('[role=slider]').getAttribute('aria-valuemax') !== was, end);
});

test('the time is chosen for all charts at once', async () => {
  const view = await stage.open('/#/devices/pump-1');
  await view.page.getByRole('radio', { name: '24 h' }).check();
  await view.until(() => [...document.querySelectorAll('[role=slider]')].every((slider) =>
    Math.abs(slider.getAttribute('aria-valuemax') - slider.getAttribute('aria-valuemin') - 86400) < 3));
});

test('a drag zooms all charts', async () => {
  const view = await stage.open('/#/devices/pump-1');
  await view.reads(card(view, 'speed'), /mean [\d ]+/);
  const area = await card(view, 'speed').locator('.u-over').boundingBox();
  await view.page.mouse.move(area.x + area.width * 0.5, area.y + 40);
  await view.page.mouse.down();
  await view.page.mouse.move(area.x + area.width * 0.7, area.y + 40, { steps: 4 });
  await view.page.mouse.up();
  await view.page.getByRole('button', { name: /show the whole/ }).waitFor();
  await view.until(() => [...document.querySelectorAll('[role=slider]')].every((slider) =>
    slider.getAttribute('aria-valuemax') - slider.getAttribute('aria-valuemin') < 100));
});

test('a text reading is a timeline with its changes', async () => {
  const view = await stage.open('/#/devices/pump-1');
  await view.reads(card(view, 'state'), /running|idle/);
  await card(view, 'state').locator('.bar').first().waitFor();
});

test('a command is sent, and what becomes of it is told', async () => {
  const view = await stage.open('/#/devices/pump-1');
  await view.page.getByLabel('Command', { exact: true }).fill('identify');
  await view.page.getByRole('button', { name: 'Send' }).click();
  await view.reads(view.page.locator('.outcome'), /identify\s+Done[\s\S]*model/);
  const entry = view.page.locator('.entry').first();
  await entry.locator('summary').click();
  await view.reads(entry, /Queued[\s\S]*Delivered[\s\S]*Done[\s\S]*HTTP/);
});

test('wrong JSON is not sent; it says where it is wrong', async () => {
  const view = await stage.open('/#/devices/pump-1');
  await view.page.getByLabel('Command', { exact: true }).fill('set-interval');
  const params = view.page.getByLabel('Parameters (JSON)');
  await params.fill('{\n  "seconds": 2,\n}');
  await view.reads(view.page.locator('#params-check'), /^Line 2, column 15: /);
  await view.page.getByRole('button', { name: 'Send' }).click();
  assert.ok(await params.evaluate((element) => element === document.activeElement));
  assert.equal(await view.page.locator('.outcome').innerText(), '');
});

test('a device that is not known is said to be so, with a way back', async () => {
  const view = await stage.open('/#/devices/nobody');
  await view.page.getByText('The gateway does not know this device.').waitFor();
  view.forgive();
  await view.page.getByRole('link', { name: /All devices/ }).click();
  await view.until(() => location.hash === '#/');
});

test('without a connection the charts stand still and nothing can be sent, until it is back', {
  skip: Boolean(process.env.TIDEGATE_URL) && 'the gateway is not ours to stop',
}, async () => {
  const view = await stage.open('/#/devices/pump-1');
  await view.reads(card(view, 'speed'), /mean [\d ]+/);
  stage.gateway.signal('SIGSTOP');
  try {
    await view.link('lost');
    const slider = chart(view, 'speed');
    const end = await slider.getAttribute('aria-valuemax');
    const since = Date.now();
    await view.page.waitForFunction((from) => Date.now() > from + 2500, since);
    assert.equal(await slider.getAttribute('aria-valuemax'), end, 'an old curve moves');
    assert.ok(await view.page.getByRole('button', { name: 'Send' }).isDisabled());
  } finally {
    stage.gateway.signal('SIGCONT');
  }
  await view.live();
  await view.until(() => !document.querySelector('.send').disabled);
  view.forgive();
});
