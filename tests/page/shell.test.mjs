// What every view stands in: the way between the views, the language, and the page's own connection.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { assertAccessible } from './lib/accessible.mjs';
import { withDemo } from './lib/suite.mjs';

const stage = withDemo();

test('the page names the gateway and its version, and leads from view to view', async () => {
  const view = await stage.open();
  const { gateway, version } = await view.api('/status');
  const { page } = view;
  assert.equal(await page.getByRole('heading', { level: 1 }).innerText(), gateway);
  await page.getByText(`tidegate ${version}`).first().waitFor();
  const views = page.getByRole('navigation', { name: 'Views' });
  await views.getByRole('link', { name: 'Gateway' }).click();
  await page.getByRole('heading', { level: 2, name: 'Gateway' }).waitFor();
  assert.match(page.url(), /#\/gateway$/);
  await page.goBack();
  await page.getByRole('heading', { level: 2, name: 'Devices' }).waitFor();
});

test('the keyboard reaches the content first, then the views and the language', async () => {
  const { page } = await stage.open();
  const focused = () => page.evaluate(() => document.activeElement.getAttribute('aria-label')
    ?? document.activeElement.textContent);
  const seen = [];
  for (let step = 0; step < 4; step += 1) {
    await page.keyboard.press('Tab');
    seen.push(await focused());
  }
  assert.deepEqual(seen, ['Skip to the content', 'Devices', 'Gateway', 'Language']);
  await page.keyboard.press('Shift+Tab');
  await page.keyboard.press('Shift+Tab');
  await page.keyboard.press('Shift+Tab');
  await page.keyboard.press('Enter');
  assert.equal(await page.evaluate(() => document.activeElement.tagName), 'MAIN');
});

test('the page speaks Korean where that is preferred, and remembers another choice', async () => {
  const view = await stage.open('/', { locale: 'ko-KR' });
  const { page } = view;
  assert.equal(await page.evaluate(() => document.documentElement.lang), 'ko');
  for (const [path, title] of [['#/', '장치'], ['#/gateway', '게이트웨이']]) {
    await page.evaluate((hash) => { location.hash = hash; }, path);
    await page.getByRole('heading', { level: 2, name: title }).waitFor();
    await assertAccessible(view);
  }
  await page.setViewportSize({ width: 360, height: 740 });
  assert.ok(!await view.overflows(), 'the page scrolls sideways');
  await page.getByRole('combobox', { name: '언어' }).selectOption('en');
  await page.getByRole('heading', { level: 2, name: 'Gateway' }).waitFor();
  await page.reload();
  await page.getByRole('heading', { level: 2, name: 'Gateway' }).waitFor();
  assert.equal(await page.evaluate(() => document.documentElement.lang), 'en');
});

test('a gateway that dies is noticed, said, and found again', async () => {
  const view = await stage.open();
  const { page } = view;
  await stage.gateway.kill();
  await view.link('lost');
  await view.reads(page.getByRole('alert'), /^No connection to the gateway since /);
  await view.until(() => document.title.startsWith('⚠'));
  await stage.gateway.run();
  // It may have found the gateway by itself meanwhile, and the button is gone.
  await page.evaluate(() => document.querySelector('[role=alert] button')?.click());
  await view.live();
  await page.getByRole('alert').waitFor({ state: 'hidden' });
  await view.until(() => !document.title.startsWith('⚠'));
  view.forgive();
});

test('a gateway that falls silent is noticed too', async () => {
  const view = await stage.open();
  stage.gateway.signal('SIGSTOP');
  try {
    await view.link('lost');
    await view.page.getByRole('alert').waitFor();
  } finally {
    stage.gateway.signal('SIGCONT');
  }
  await view.live();
  view.forgive();
});
