// A page with two thousand devices, all sending.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { Rig } from './lib/processes.mjs';
import { withDemo } from './lib/suite.mjs';

const MANY = 2000;
const stage = withDemo(() => Rig.start({
  devices: MANY, rate: 0.5,
}));

test('two thousand devices: few of them are in the document, and the page goes on answering', async (t) => {
  const view = await stage.open();
  const { page } = view;
  await view.status(({ devices }) => devices.connected >= MANY);
  await view.reads(page.getByRole('region', { name: 'State of the gateway' }), /of 2 000 known/);
  const nodes = () => page.evaluate(() => document.querySelectorAll('*').length);
  assert.ok(await nodes() < 4000, `${await nodes()} elements`);

  // From the top to the end in steps, one a frame; how long the longest frame was, and what the browser
  // calls long tasks, of over 50 ms.
  const { longest, frames, tasks, bottom } = await page.evaluate(async () => {
    const frame = () => new Promise((resolve) => { requestAnimationFrame(resolve); });
    const tasks = [];
    const keep = (list) => tasks.push(...list.map(({ duration }) => Math.round(duration)));
    const observer = new PerformanceObserver((list) => keep(list.getEntries()));
    observer.observe({ type: 'longtask' });
    let [last, longest, frames] = [await frame(), 0, 0];
    const began = last;
    while (last - began < 4000) {
      scrollBy(0, 700);
      const now = await frame();
      longest = Math.max(longest, now - last);
      last = now;
      frames += 1;
    }
    keep(observer.takeRecords());
    return { longest, frames, tasks, bottom: scrollY };
  });
  const long = tasks.length > 0 ? `tasks of ${tasks.join(', ')} ms` : 'no long task';
  t.diagnostic(`${frames} frames in 4 s, the longest ${Math.round(longest)} ms; ${long}; ${await nodes()} elements`);
  assert.ok(bottom > 5000, 'there was little to scroll');
  // A page that draws every device anew takes seconds for a frame.
  assert.ok(longest < 1500, `a frame took ${longest} ms`);
  assert.ok(await nodes() < 4000, `${await nodes()} elements after scrolling`);

  await page.evaluate(() => scrollTo(0, 0));
  await page.getByRole('searchbox', { name: 'Find a device' }).fill('sim-1999');
  await view.until(() => document.querySelectorAll('[data-device]').length === 1);
  await page.getByRole('link', { name: 'sim-1999' }).waitFor();

  // The focus reaches a device that is not in the document yet.
  await page.getByRole('searchbox', { name: 'Find a device' }).fill('');
  await view.until(() => document.querySelectorAll('[data-device]').length > 1);
  await page.locator('[data-device] a').first().focus();
  await page.keyboard.press('End');
  await view.until((last) => document.activeElement.closest('[data-device]')?.ariaPosInSet === last, String(MANY));
});
