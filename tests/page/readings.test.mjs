// The view of a device that a test plays itself: very many readings, states that change when the test
// says so, and a device that goes.

import assert from 'node:assert/strict';
import { afterEach, test } from 'node:test';

import { Device } from './lib/device.mjs';
import { Rig } from './lib/processes.mjs';
import { withDemo } from './lib/suite.mjs';

const stage = withDemo(() => Rig.start());
const devices = [];
afterEach(async () => {
  for (const device of devices.splice(0)) await device.leave();
});

async function connect(id, options) {
  const device = await Device.connect(stage.gateway, id, options);
  devices.push(device);
  return device;
}

const MANY = 256;

test('of 256 readings those in view have charts, and a search finds the others', async () => {
  const device = await connect('many');
  const names = Array.from({ length: MANY }, (_, index) => `value-${index + 1}`);
  device.send(Object.fromEntries(names.map((name, index) => [name, index + 0.5])));
  const view = await stage.open('/#/devices/many');
  const { page } = view;
  await view.until((count) => document.querySelectorAll('article.reading').length === count, MANY);
  await page.locator('canvas').first().waitFor();
  const charts = () => page.locator('canvas').count();
  assert.ok(await charts() < 40, `${await charts()} charts`);

  // The last one gets its chart when it comes into view, and the first ones give theirs back.
  const last = page.getByRole('article', { name: `value-${MANY}`, exact: true });
  await last.scrollIntoViewIfNeeded();
  await last.locator('canvas').waitFor();
  await view.reads(last, /255\.5/);
  await page.getByRole('article', { name: 'value-1', exact: true }).locator('canvas').waitFor({ state: 'detached' });
  assert.ok(await charts() < 40, `${await charts()} charts after scrolling`);

  const search = page.getByRole('searchbox', { name: `Search ${MANY} readings` });
  await search.fill('VALUE-25');
  await view.until(() => document.querySelectorAll('article.reading').length === 8);
  await search.fill('pressure');
  await page.getByText('No reading is called “pressure”.').waitFor();
});

test('a timeline is read with the keyboard', async () => {
  const device = await connect('switch');
  device.send({ on: true }, { age: 20 });
  const view = await stage.open('/#/devices/switch');
  const { page } = view;
  const card = page.getByRole('article', { name: 'on', exact: true });
  await view.reads(card, /yes/);
  // Two changes, each once the page has seen the one before.
  device.send({ on: false }, { age: 10 });
  await view.reads(card, /1 change\b/);
  device.send({ on: true });
  await view.reads(card, /2 changes/);

  const slider = page.getByRole('slider', { name: /^Timeline of on/ });
  await slider.focus();
  await slider.press('p');
  const said = async (pattern) => {
    await view.until(([label, source]) => new RegExp(source).test(
      document.querySelector(`[role=slider][aria-label^="${label}"]`).getAttribute('aria-valuetext'),
    ), ['Timeline of on', pattern]);
    return slider.getAttribute('aria-valuetext');
  };
  await slider.press('Home');
  const first = await said('^\\d\\d:\\d\\d:\\d\\d: yes, ');
  await slider.press('ArrowRight');
  await said('^\\d\\d:\\d\\d:\\d\\d: no, ');
  await slider.press('End');
  assert.notEqual(await said('^\\d\\d:\\d\\d:\\d\\d: yes, '), first);
  await slider.press('ArrowLeft');
  await said(': no, ');
  await slider.press('Escape');
  await said('^2 changes$');
});

test('a command for a device that is away waits for it, and says so', async () => {
  const device = await connect('leaving', { commands: ['identify'] });
  device.send({ value: 1 });
  const view = await stage.open('/#/devices/leaving');
  const { page } = view;
  await page.locator('datalist option[value=identify]').waitFor({ state: 'attached' });
  assert.equal(await page.title(), 'leaving · rig');
  await device.leave();
  await page.getByText(/^The device is away\. The command waits for it until its time is over/).waitFor();
  await page.getByLabel('Command', { exact: true }).fill('identify');
  await page.getByLabel('Wanted for (seconds)').fill('300');
  await page.getByText('waits for it for 300 s and then expires').waitFor();
  await page.getByRole('button', { name: 'Send' }).click();
  await view.reads(page.locator('.outcome'), /identify\s+Queued[\s\S]*The device is away\. The command waits for it until/);

  // It gets the command when it is back.
  await connect('leaving', { commands: ['identify'] });
  await view.reads(page.locator('.outcome'), /identify\s+Delivered/);
});

test('a chart takes the colours of a scheme that is changed while it is shown', async () => {
  const device = await connect('colours');
  const view = await stage.open('/#/devices/colours', { colorScheme: 'light' });
  const { page } = view;
  for (const value of [1, 2, 3]) device.send({ value });
  await view.reads(page.getByRole('article', { name: 'value', exact: true }), /mean/);
  // How many pixels of the line there are, in the colour that the style sheet has for it now.
  const drawn = () => {
    const colour = getComputedStyle(document.querySelector('.device')).getPropertyValue('--chart-line').trim();
    const [r, g, b] = colour.slice(1).match(/../g).map((part) => parseInt(part, 16));
    const canvas = document.querySelector('canvas');
    const copy = new OffscreenCanvas(canvas.width, canvas.height).getContext('2d', { willReadFrequently: true });
    copy.drawImage(canvas, 0, 0);
    const { data } = copy.getImageData(0, 0, canvas.width, canvas.height);
    let count = 0;
    for (let i = 0; i < data.length; i += 4) {
      if (Math.abs(data[i] - r) + Math.abs(data[i + 1] - g) + Math.abs(data[i + 2] - b) < 12 && data[i + 3] > 200) count += 1;
    }
    return count > 0 ? colour : null;
  };
  const light = await (await view.until(drawn)).jsonValue();
  await page.emulateMedia({ colorScheme: 'dark' });
  await view.until((before) => getComputedStyle(document.querySelector('.device')).getPropertyValue('--chart-line').trim() !== before, light);
  const dark = await (await view.until(drawn)).jsonValue();
  assert.notEqual(dark, light);
});

test('what came while the page was cut off is in the chart once it is back', async () => {
  const device = await connect('peak');
  const view = await stage.open('/#/devices/peak');
  const { page } = view;
  // Only the page loses its connection: its sockets go through here from the next load on.
  const sockets = [];
  let cut = false;
  await page.routeWebSocket(/\/api\/v1\/stream/, (socket) => {
    if (cut) {
      socket.close({ code: 1013 });
      return;
    }
    socket.connectToServer();
    sockets.push(socket);
  });
  await page.reload();
  await view.live();
  device.send({ level: 5 }, { age: 30 });
  const card = page.getByRole('article', { name: 'level', exact: true });
  await view.reads(card, /max 5\.?0* /);

  cut = true;
  for (const socket of sockets) await socket.close({ code: 1013 });
  await view.link('lost');
  device.send({ level: 500 }, { age: 20 });
  device.send({ level: 6 }, { age: 10 });
  assert.ok(!/500/.test(await card.innerText()), 'the page cannot know of it');
  cut = false;
  await view.live();
  await view.reads(card, /max 500/);
  view.forgive();
});

test('what was typed for a device that the gateway forgets over its restart waits for it', async () => {
  const device = await connect('returning', { commands: ['identify'] });
  device.send({ value: 17 });
  const view = await stage.open('/#/devices/returning');
  const { page } = view;
  const command = page.getByLabel('Command', { exact: true });
  await command.fill('half-typ');
  await device.leave();
  await stage.gateway.gateway.kill();
  await view.link('lost');
  await stage.gateway.startGateway();
  await page.getByText('The gateway has forgotten this device.').waitFor();
  assert.ok(!await page.getByText('17').first().isVisible(), 'what it sent is not shown as if it were now');

  await connect('returning', { commands: ['identify'] });
  await view.until(() => document.activeElement?.name === 'command');
  assert.equal(await command.inputValue(), 'half-typ');
  view.forgive();
});
