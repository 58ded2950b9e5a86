// The page in a real Chromium, against a real gateway.
//
//   TIDEGATE_BIN=target/release/tidegate node --test
//
// starts `tidegate demo` itself, so that the gateway can also be taken away. TIDEGATE_URL names one
// that runs already; then the tests that would stop it are skipped. CHROMIUM names the browser
// where it is not in a usual place.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { createInterface } from 'node:readline';
import { after, before, beforeEach, afterEach, test } from 'node:test';

import { chromium } from 'playwright-core';

const DEADLINE = 60000;
const { TIDEGATE_BIN, TIDEGATE_URL, CHROMIUM } = process.env;
const owned = !TIDEGATE_URL;

let gateway;
let browser;
let context;
let page;
let complaints;
let elsewhere;

class Gateway {
  static async start() {
    const made = new Gateway();
    made.port = String(await freePort());
    await made.run();
    return made;
  }

  async run() {
    const command = ['demo', '--for', '10m', '--dashboard-port', this.port];
    this.child = spawn(TIDEGATE_BIN, command, { stdio: ['pipe', 'pipe', 'inherit'] });
    this.ended = new Promise((resolve) => { this.child.once('exit', resolve); });
    const lines = createInterface({ input: this.child.stdout });
    this.url = await new Promise((resolve, reject) => {
      const timer = setTimeout(() => reject(new Error('the gateway says no address')), DEADLINE);
      this.child.once('error', reject);
      this.child.once('exit', (code) => reject(new Error(`the gateway ended with ${code}`)));
      lines.on('line', (line) => {
        const found = line.match(/dashboard\s+(http:\/\/\S+)/);
        if (!found) return;
        clearTimeout(timer);
        resolve(found[1].replace(/\/$/, ''));
      });
    });
  }

  // The demo runs broker, gateway and devices as children.
  process() {
    const { pid } = this.child;
    const children = readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').trim().split(' ');
    const words = (child) => readFileSync(`/proc/${child}/cmdline`, 'utf8').split('\0');
    const found = children.find((child) => words(child).includes('demo-gateway'));
    assert.ok(found, `no gateway among ${children}`);
    return Number(found);
  }

  signal(name) {
    process.kill(this.process(), name);
  }

  async kill() {
    if (this.child.exitCode === null && this.child.signalCode === null) {
      try {
        this.signal('SIGKILL');
      } finally {
        this.child.kill('SIGKILL');
      }
    }
    await this.ended;
  }
}

function freePort() {
  return new Promise((resolve, reject) => {
    const server = createServer();
    server.once('error', reject);
    server.listen(0, '127.0.0.1', () => {
      const { port } = server.address();
      server.close(() => resolve(port));
    });
  });
}

function browserPath() {
  const usual = ['/usr/bin/chromium', '/usr/bin/chromium-browser', '/usr/bin/google-chrome'];
  const path = CHROMIUM ?? usual.find((candidate) => existsSync(candidate));
  assert.ok(path, 'no Chromium found: install the package chromium, or set CHROMIUM');
  return path;
}

// Waits until `probe`, run in the page, is true.
function until(probe, argument) {
  return page.waitForFunction(probe, argument, { timeout: DEADLINE, polling: 50 });
}

before(async () => {
  assert.ok(TIDEGATE_BIN || TIDEGATE_URL, 'set TIDEGATE_BIN or TIDEGATE_URL');
  gateway = owned ? await Gateway.start() : { url: TIDEGATE_URL };
  const root = process.getuid?.() === 0;
  browser = await chromium.launch({
    executablePath: browserPath(),
    // Chromium's sandbox does not work for root.
    args: root ? ['--no-sandbox'] : [],
  });
});

after(async () => {
  await browser?.close();
  if (owned) await gateway?.kill();
});

async function open(options = {}) {
  await context?.close();
  complaints = [];
  elsewhere = [];
  context = await browser.newContext({ viewport: { width: 1280, height: 900 }, ...options });
  page = await context.newPage();
  page.on('console', (message) => {
    if (['error', 'warning'].includes(message.type())) complaints.push(message.text());
  });
  page.on('pageerror', (error) => complaints.push(error.message));
  const own = new URL(gateway.url).host;
  const check = (url) => {
    const { host, protocol } = new URL(url);
    if (protocol !== 'data:' && host !== own) elsewhere.push(url);
  };
  page.on('request', (request) => check(request.url()));
  page.on('websocket', (socket) => check(socket.url()));
  await page.goto(gateway.url);
  await until(() => document.body.dataset.link === 'live');
  await until(() => document.querySelectorAll('.card .value .text').length > 0);
}

beforeEach(() => open());

afterEach(async () => {
  assert.deepEqual(elsewhere, [], 'requests to anyone but the gateway');
  await context?.close();
  context = null;
});

const texts = () => [...document.querySelectorAll('.card')].map((card) => card.textContent).join();

test('values appear, change by themselves, and nothing complains', async () => {
  assert.notEqual(await page.textContent('#gateway'), 'tidegate');
  assert.notEqual(await page.textContent('#summary'), 'Waiting for the gateway.');
  const before = await page.evaluate(() =>
    [...document.querySelectorAll('.value .text')].map((node) => node.textContent).join());
  await until((old) =>
    [...document.querySelectorAll('.value .text')].map((node) => node.textContent).join() !== old,
  before);
  assert.deepEqual(complaints, []);
});

test('what the page shows is what the API says', async () => {
  const answer = await context.request.get(`${gateway.url}/api/v1/devices`);
  const devices = await answer.json();
  assert.ok(devices.length > 0);
  await until((count) => document.querySelectorAll('.card').length >= count, devices.length);
  for (const device of devices) {
    const card = page.locator(`.card[data-device="${device.id}"]`);
    await card.scrollIntoViewIfNeeded();
    assert.equal(await card.locator('h3').textContent(), device.id);
    assert.ok(await card.locator('.row').count() >= Object.keys(device.readings).length);
  }
  await until(() => document.getElementById('online').textContent !== '–');
});

test('the strip says how long the buffer lasts and what was written today', async () => {
  // Known once the gateway has watched what comes in for a few seconds.
  await until(() => /^lasts .+ without the broker(, .+ written today)?$/
    .test(document.getElementById('outlook').textContent));
  const { spool } = await (await context.request.get(`${gateway.url}/api/v1/status`)).json();
  assert.ok(spool.lasts_s > 0, JSON.stringify(spool));
  const written = /written today/.test(await page.textContent('#outlook'));
  assert.equal(written, spool.disk_written_today_bytes !== null);
});

test('every value in view has an age', async () => {
  await until(() => {
    const seen = [...document.querySelectorAll('.row')].filter((row) => {
      const { top, bottom } = row.getBoundingClientRect();
      return row.checkVisibility() && top >= 0 && bottom <= innerHeight;
    });
    return seen.length > 0 && seen.every((row) =>
      /^(now|\d+\s(s|min|h|d)( old)?)$/.test(row.querySelector('.age').textContent));
  });
});

test('the find box and the choice leave out other devices', async () => {
  const cards = page.locator('.card:visible');
  const all = await cards.count();
  const id = await cards.first().getAttribute('data-device');
  await page.fill('#find', id.toUpperCase());
  await until((id) => {
    const shown = [...document.querySelectorAll('.card:not([hidden])')];
    return shown.length > 0 && shown.every((card) => card.textContent.includes(id));
  }, id);
  await page.fill('#find', 'no such device');
  await until(() => !document.getElementById('empty').hidden);
  await page.fill('#find', '');
  await until((all) => document.querySelectorAll('.card:not([hidden])').length >= all, all);
  await page.check('input[value=online]', { force: true });
  await until(() => [...document.querySelectorAll('.card:not([hidden])')]
    .every((card) => card.dataset.state === 'online'));
});

test('the keyboard reaches everything', async () => {
  await page.keyboard.press('Tab');
  assert.equal(await page.evaluate(() => document.activeElement.className), 'skip');
  await page.keyboard.press('Tab');
  assert.equal(await page.evaluate(() => document.activeElement.name), 'which');
  await page.keyboard.press('ArrowRight');
  assert.equal(await page.evaluate(() => document.activeElement.value), 'online');
  await page.keyboard.press('Tab');
  assert.equal(await page.evaluate(() => document.activeElement.id), 'find');
});

for (const colorScheme of ['light', 'dark']) {
  for (const [size, viewport] of [['desk', undefined], ['phone', { width: 360, height: 740 }]]) {
    test(`text is legible and nothing runs over: ${colorScheme}, ${size}`, async () => {
      await open({ colorScheme, ...(viewport ? { viewport } : {}) });
      await until(() => document.getElementById('uplink').textContent !== '–');
      const { faint, wide } = await page.evaluate(faults);
      assert.deepEqual(faint, [], 'contrast below 4.5');
      assert.ok(!wide, 'the page scrolls sideways');
    });
  }
}

// In the page: text of too little contrast (WCAG 2 AA), and whether the page is too wide.
function faults() {
  const channels = (colour) => colour.match(/[\d.]+/g).map(Number);
  const luminance = (rgb) => {
    const [r, g, b] = rgb.slice(0, 3).map((value) => {
      const share = value / 255;
      return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = (node) => {
    for (let at = node; at; at = at.parentElement) {
      const colour = channels(getComputedStyle(at).backgroundColor);
      if (colour.length < 4 || colour[3] === 1) return colour;
    }
    return [255, 255, 255];
  };
  const faint = [];
  for (const node of document.querySelectorAll('body *')) {
    const own = [...node.childNodes].some((child) =>
      child.nodeType === Node.TEXT_NODE && child.textContent.trim());
    if (!own || !node.checkVisibility() || node.closest('.unseen, .skip, noscript')) continue;
    const [a, b] = [channels(getComputedStyle(node).color), ground(node)].map(luminance);
    const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (contrast < 4.5) faint.push(`${node.className || node.tagName}: ${contrast.toFixed(2)}`);
  }
  const { scrollWidth, clientWidth } = document.documentElement;
  return { faint: [...new Set(faint)], wide: scrollWidth > clientWidth };
}

test('a gateway that dies is noticed, said, and found again', { skip: !owned }, async () => {
  // Only of a value that has changed while the page watched is it known when the next is due.
  const values = () => [...document.querySelectorAll('.row .value')].map((v) => v.textContent);
  const first = await page.evaluate(values);
  await until((old) => {
    const now = [...document.querySelectorAll('.row .value')].map((v) => v.textContent);
    return now.some((value, n) => value !== old[n]);
  }, first);
  await gateway.kill();
  await until(() => document.body.dataset.link === 'lost');
  assert.ok(await page.isVisible('#banner'));
  assert.match(await page.textContent('#banner-text'), /^No connection to the gateway since /);
  assert.match(await page.title(), /^⚠/);
  await until(() => document.querySelector('.state').textContent.startsWith('was '));
  const { faint } = await page.evaluate(faults);
  assert.deepEqual(faint, [], 'contrast below 4.5');
  const kept = await page.evaluate(texts);
  assert.ok(kept.length > 0, 'the last values stay to be seen');
  await until(() => document.querySelectorAll('.row.old').length > 0);
  assert.match(await page.textContent('.row.old .age'), /^\d+\s(s|min) old$/);

  await gateway.run();
  // It may have found the gateway by itself meanwhile, and hidden the button.
  await page.evaluate(() => document.querySelector('#retry').click());
  await until(() => document.body.dataset.link === 'live');
  assert.ok(!await page.isVisible('#banner'));
  await until((old) => {
    const now = [...document.querySelectorAll('.card')].map((card) => card.textContent).join();
    return now !== '' && now !== old;
  }, kept);
});

test('a gateway that falls silent is noticed too', { skip: !owned }, async () => {
  gateway.signal('SIGSTOP');
  try {
    await until(() => document.body.dataset.link === 'lost');
    assert.ok(await page.isVisible('#banner'));
  } finally {
    gateway.signal('SIGCONT');
  }
  await until(() => document.body.dataset.link === 'live');
});
