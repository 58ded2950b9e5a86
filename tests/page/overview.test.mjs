// All devices at a glance.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { assertAccessible } from './lib/accessible.mjs';
import { plain } from './lib/page.mjs';
import { LOOKS, withDemo } from './lib/suite.mjs';

const stage = withDemo();
const cards = (view) => view.page.getByRole('list', { name: 'Devices' }).locator('[data-device]');
const values = () => [...document.querySelectorAll('[data-device] .value .text')].map((node) => node.textContent).join();
const open = async (options) => {
  const view = await stage.open('/', options);
  await view.page.locator('[data-device] .value .text').first().waitFor();
  return view;
};

for (const { look, options } of LOOKS) {
  test(`the overview is accessible and nothing runs over: ${look}`, async () => {
    const view = await open(options);
    await assertAccessible(view);
    assert.ok(!await view.overflows(), 'the page scrolls sideways');
  });
}

test('values appear and change by themselves', async () => {
  const view = await open();
  const before = await view.page.evaluate(values);
  await view.until((old) =>
    [...document.querySelectorAll('[data-device] .value .text')].map((node) => node.textContent).join() !== old,
  before);
});

test('the page shows every device that the API has, with its readings', async () => {
  const view = await open();
  const devices = await view.api('/devices');
  assert.ok(devices.length > 0);
  for (const { id, readings } of devices) {
    const card = cards(view).filter({ has: view.page.getByRole('link', { name: id, exact: true }) });
    await card.scrollIntoViewIfNeeded();
    const rows = await card.locator('dt').count();
    const [, more = '0'] = plain(await card.innerText()).match(/\+(\d+) more/) ?? [];
    assert.ok(rows + Number(more) >= Object.keys(readings).length, `${id}: ${rows} rows and ${more} more`);
  }
});

test('the strip says how long the buffer lasts and what was written today', async () => {
  const view = await open();
  const strip = view.page.getByRole('region', { name: 'State of the gateway' });
  // Known once the gateway has watched what comes in for a few seconds.
  const text = await view.reads(strip, /lasts .+ without the broker/);
  const { spool } = await view.api('/status');
  assert.ok(spool.lasts_s > 0, JSON.stringify(spool));
  assert.equal(/written today/.test(text), spool.disk_written_today_bytes !== null);
});

test('the age of what a device sent last goes on', async () => {
  const view = await open();
  await view.until(() => {
    const ages = [...document.querySelectorAll('[data-device][data-state=online] .age')];
    return ages.length > 0 && ages.every((age) => /^(now|\d+\s(s|min))/.test(age.textContent));
  });
});

test('finding and choosing leave out other devices', async () => {
  const view = await open();
  const { page } = view;
  const all = await cards(view).count();
  const id = await cards(view).first().getAttribute('data-device');
  const find = page.getByRole('searchbox', { name: 'Find a device' });
  await find.fill(id.toUpperCase());
  await view.until((wanted) => {
    const shown = [...document.querySelectorAll('[data-device]')];
    return shown.length > 0 && shown.every((card) => card.textContent.includes(wanted));
  }, id);
  await find.fill('no such device');
  await page.getByText('No device fits what you are looking for.').waitFor();
  await page.getByRole('button', { name: 'Show all devices' }).click();
  await view.until((count) => document.querySelectorAll('[data-device]').length >= count, all);
  await page.getByRole('radio', { name: /^Online/ }).check({ force: true });
  await view.until(() => [...document.querySelectorAll('[data-device]')]
    .every((card) => card.dataset.state === 'online'));
});

test('the keyboard goes from the choice to the search and to a device', async () => {
  const view = await open();
  const { page } = view;
  const focused = () => page.evaluate(() => document.activeElement.id || document.activeElement.name
    || document.activeElement.textContent);
  await page.keyboard.press('/');
  assert.equal(await focused(), 'find');
  await page.keyboard.press('Shift+Tab');
  assert.equal(await focused(), 'which');
  await page.keyboard.press('ArrowRight');
  assert.equal(await page.evaluate(() => document.activeElement.value), 'online');
  await page.keyboard.press('ArrowLeft');
  const link = cards(view).first().getByRole('link');
  const name = await link.innerText();
  await link.focus();
  await page.keyboard.press('Enter');
  await page.getByRole('heading', { level: 2, name }).waitFor();
});

test('the age of a card begins anew with each reading', async () => {
  const view = await open();
  // Longer than a device that sends nothing counts as online, so that an age that only grows shows.
  await view.until(() => performance.now() > 15_000 && (() => {
    const ages = [...document.querySelectorAll('.card[data-state=online] .about .age')];
    return ages.length > 0 && ages.every((age) => {
      const [, seconds = '0', unit = 's'] = age.textContent.match(/^(\d+)\s(\w+)$/) ?? [];
      return unit === 's' && Number(seconds) <= 12;
    });
  })());
});

test('arrows, Home and End go from card to card', async () => {
  const view = await open();
  const { page } = view;
  const links = cards(view).getByRole('link');
  const names = await links.allInnerTexts();
  assert.ok(names.length > 2);
  const goes = async (key, name) => {
    await page.keyboard.press(key);
    await view.until((wanted) => document.activeElement.textContent === wanted, name);
  };
  await links.first().focus();
  await goes('ArrowRight', names[1]);
  await goes('ArrowLeft', names[0]);
  await goes('End', names.at(-1));
  await goes('Home', names[0]);
});

test('order, choice and layout are kept over a reload', async () => {
  const view = await open();
  const { page } = view;
  await page.getByRole('combobox', { name: 'Order' }).selectOption({ label: 'Trouble first' });
  await page.getByRole('radio', { name: 'List' }).check({ force: true });
  await page.locator('.item').first().waitFor();
  await assertAccessible(view);
  assert.ok(!await view.overflows(), 'the page scrolls sideways');
  await page.reload();
  await page.locator('.item .value .text').first().waitFor();
  assert.equal(await page.getByRole('combobox', { name: 'Order' }).inputValue(), 'state');
});

test('a small line stands beside numbers, from what the gateway remembers', async () => {
  const view = await open();
  await view.until(() => {
    const line = document.querySelector('.card .trend .sparkline path:not(.area)');
    return (line?.getAttribute('d')?.match(/L/g)?.length ?? 0) >= 2;
  });
  const asked = await view.page.evaluate(() =>
    performance.getEntriesByType('resource').filter(({ name }) => /\/history\?/.test(name)).length);
  assert.ok(asked > 0, 'the history was never asked for');
});
