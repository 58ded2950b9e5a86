// What the tests of every view begin and end with.

import { after, afterEach, before } from 'node:test';

import { Demo } from './processes.mjs';
import { launch, View } from './page.mjs';

/**
 * A demo and a browser for the tests of one file. `open` opens a view that is closed after the test,
 * when it must not have complained of anything.
 *
 * `TIDEGATE_URL` names a gateway that runs already, for working on a test; it is never stopped.
 */
export function withDemo(start = () => Demo.start()) {
  const stage = { gateway: null, browser: null, open };
  const views = [];

  before(async () => {
    stage.browser = await launch();
    const url = process.env.TIDEGATE_URL?.replace(/\/$/, '');
    stage.gateway = url ? { url, async kill() {} } : await start();
  });
  afterEach(async () => {
    for (const view of views.splice(0)) await view.close();
  });
  after(async () => {
    await stage.browser?.close();
    await stage.gateway?.kill();
  });

  async function open(path, options) {
    const view = await View.open(stage.browser, stage.gateway, path, options);
    views.push(view);
    return view;
  }
  return stage;
}

/** Every look that the page has. */
export const LOOKS = [
  { look: 'light, desk', options: { colorScheme: 'light' } },
  { look: 'dark, desk', options: { colorScheme: 'dark' } },
  { look: 'light, phone', options: { colorScheme: 'light', viewport: { width: 360, height: 740 } } },
  { look: 'dark, phone', options: { colorScheme: 'dark', viewport: { width: 360, height: 740 } } },
];
