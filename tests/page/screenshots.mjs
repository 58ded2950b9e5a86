// The pictures in docs/images: each view in light and dark, and one on a phone. By hand, after the
// page has changed:
//
//   cargo build --release && cd tests/page && npm ci
//   TIDEGATE_BIN=../../target/release/tidegate npm run screenshots
//
// It lets the demo run for a while first, so that there are lines to see. Needs Chromium and pngquant.

import { execFileSync } from 'node:child_process';
import { mkdirSync, statSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

import { launch, View } from './lib/page.mjs';
import { Demo } from './lib/processes.mjs';

const FOLDER = fileURLToPath(new URL('../../docs/images/', import.meta.url));
const LARGEST = 150_000;
// For lines that fill a part of their charts, in seconds.
const HISTORY = Number(process.env.HISTORY ?? 330);
const DESK = { width: 1280, height: 900 };
const PHONE = { width: 390, height: 844 };

const PICTURES = [
  ['overview', '/', DESK],
  ['device', '/#/devices/pump-1', DESK],
  ['gateway', '/#/gateway', { width: 1280, height: 1400 }],
].flatMap(([name, path, viewport]) => ['light', 'dark'].map((colorScheme) =>
  ({ name: `${name}-${colorScheme}`, path, viewport, colorScheme })));
PICTURES.push({ name: 'phone', path: '/', viewport: PHONE, colorScheme: 'light', deviceScaleFactor: 2 });

const demo = await Demo.start();
const browser = await launch();
try {
  await new Promise((resolve) => { setTimeout(resolve, HISTORY * 1000); });
  mkdirSync(FOLDER, { recursive: true });
  for (const { name, path, ...options } of PICTURES) {
    const view = await View.open(browser, demo, path, options);
    // Rates and lines are there after some seconds.
    await view.page.waitForTimeout(6000);
    // The demo's devices lose their network now and then.
    if (path === '/') await view.page.getByText(/^All is well/).first().waitFor();
    const file = `${FOLDER}${name}.png`;
    writeFileSync(file, execFileSync('pngquant', ['--quality', '70-95', '--speed', '1', '--strip', '-'], {
      input: await view.page.screenshot(), maxBuffer: 1 << 26,
    }));
    const { size } = statSync(file);
    console.log(`${name}.png: ${size} bytes${size > LARGEST ? ', too large' : ''}`);
    if (size > LARGEST) process.exitCode = 1;
    await view.close();
  }
} finally {
  await browser.close();
  await demo.kill();
}
