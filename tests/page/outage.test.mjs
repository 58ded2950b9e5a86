// The broker goes and comes back, and so does the gateway, in view of the page.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { assertAccessible } from './lib/accessible.mjs';
import { Rig } from './lib/processes.mjs';
import { withDemo } from './lib/suite.mjs';

// Reading by reading, so that a buffer grows and takes a while to drain.
const stage = withDemo(() => Rig.start({
  devices: 4, rate: 25, settings: '[spool]\ndrain_rate = 150\n',
}));

test('an outage is said at once, then how the buffer fills and drains, until all is well again', async (t) => {
  const view = await stage.open();
  const strip = view.page.getByRole('region', { name: 'State of the gateway' });
  await view.reads(strip, /All is well/);
  // When the page first says it, on its own clock.
  await view.page.evaluate(() => {
    const look = () => {
      if (!/broker has been away/.test(document.querySelector('.summary').textContent)) return;
      globalThis.saidAt = Date.now();
      seen.disconnect();
    };
    const seen = new MutationObserver(look);
    seen.observe(document.body, { subtree: true, childList: true, characterData: true });
  });
  const gone = Date.now();
  await stage.gateway.broker.kill();
  await view.until(() => globalThis.saidAt !== undefined);
  const delay = await view.page.evaluate(() => globalThis.saidAt) - gone;
  // A second is promised; a machine that is busy with other tests may take longer.
  t.diagnostic(`said after ${delay} ms`);
  assert.ok(delay < 5000, `said after ${delay} ms`);
  await view.until(() => document.title.startsWith('⚠'));

  await view.reads(strip, /Readings are kept on disk: [\d ]+ batch/);
  const batches = async () => (await view.api('/status')).spool.batches;
  const first = await batches();
  await view.reads(strip, /full in|age limit in/);
  await view.status(({ spool }) => spool.batches > first + 300);
  await assertAccessible(view);
  await view.page.getByRole('link', { name: 'Gateway' }).click();
  await view.page.getByText(/^The broker has been away for /).waitFor();
  await view.page.getByRole('link', { name: 'Devices' }).click();

  await stage.gateway.startBroker();
  await view.reads(strip, /gets what was buffered: [\d ]+ batch.*to go/);
  await view.reads(strip, /empty in /);
  await view.reads(strip, /All is well/);
  await view.status(({ spool }) => spool.batches === 0);
  await view.until(() => !document.title.startsWith('⚠'));
});

test('without the gateway the values grey and stay, and come back by themselves with no reload', async () => {
  const view = await stage.open();
  const { page } = view;
  const values = page.locator('[data-device] .value .text');
  await values.first().waitFor();
  await page.evaluate(() => { globalThis.sameDocument = true; });
  const colour = () => page.locator('[data-device] .value').first().evaluate((node) => getComputedStyle(node).color);
  const live = await colour();
  await stage.gateway.gateway.kill();
  await view.link('lost');
  await view.reads(page.getByRole('alert'), /^No connection to the gateway since /);
  assert.ok(await values.count() > 0, 'the last values stay to be seen');
  assert.notEqual(await colour(), live, 'old values look like new ones');
  await assertAccessible(view);
  await stage.gateway.startGateway();
  await view.live();
  await view.until(() => document.querySelector('[role=alert]') === null);
  const before = await values.allInnerTexts();
  await view.until((old) =>
    [...document.querySelectorAll('[data-device] .value .text')].map((node) => node.innerText).join() !== old,
  before.join());
  assert.equal(await colour(), live);
  assert.ok(await page.evaluate(() => globalThis.sameDocument), 'the page was loaded anew');
  view.forgive();
});
