// The page in a Chromium that sees nothing but this machine. What a page must not do (complain in
// the console, ask for what is not there, ask anyone but the gateway) is written down as it happens.

import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';

import { chromium } from 'playwright-core';

import { DEADLINE } from './processes.mjs';

/** Starts the browser. */
export function launch() {
  return chromium.launch({
    executablePath: browserPath(),
    args: [
      // Even a name that slips through is never looked up; tests/run takes the network away besides.
      '--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1',
      // Chromium's sandbox does not work for root.
      ...(process.getuid?.() === 0 ? ['--no-sandbox'] : []),
    ],
  });
}

function browserPath() {
  const usual = ['/usr/bin/chromium', '/usr/bin/chromium-browser', '/usr/bin/google-chrome'];
  const path = process.env.CHROMIUM ?? usual.find((candidate) => existsSync(candidate));
  assert.ok(path, 'no Chromium found: install the package chromium, or set CHROMIUM');
  return path;
}

/** A page of a context of its own. */
export class View {
  /**
   * Opens `path` (`/#/gateway`) and waits until the feed is live, or, where somebody must sign in,
   * for the form. `options` are Playwright's for a context: `viewport`, `colorScheme`, `locale` …
   */
  static async open(browser, gateway, path = '/', { form = false, ...options } = {}) {
    const view = new View();
    view.gateway = gateway;
    view.context = await browser.newContext({
      viewport: { width: 1280, height: 900 }, locale: 'en-GB', timezoneId: 'UTC', ...options,
    });
    view.page = await view.context.newPage();
    view.page.setDefaultTimeout(DEADLINE);
    view.#watch();
    await view.page.goto(gateway.url + path);
    await (form ? view.page.getByRole('form').waitFor() : view.live());
    return view;
  }

  /** What the page complained about, and what it asked of anyone but the gateway. */
  complaints = [];
  elsewhere = [];

  #watch() {
    const { page, gateway, complaints, elsewhere } = this;
    page.on('console', (message) => {
      if (['error', 'warning'].includes(message.type())) complaints.push(message.text());
    });
    page.on('pageerror', (error) => complaints.push(error.message));
    page.on('response', (response) => {
      if (response.status() >= 400) complaints.push(`${response.status()} ${response.url()}`);
    });
    page.on('requestfailed', (request) => {
      // Ending a question that nobody waits for any more is no failure.
      const why = request.failure()?.errorText;
      if (why !== 'net::ERR_ABORTED') complaints.push(`${why} ${request.url()}`);
    });
    const own = new URL(gateway.url).host;
    const check = (url) => {
      const { host, protocol } = new URL(url);
      if (protocol !== 'data:' && host !== own) elsewhere.push(url);
    };
    page.on('request', (request) => check(request.url()));
    page.on('websocket', (socket) => check(socket.url()));
  }

  /** Waits until the page shows what is so now. */
  live() {
    return this.link('live');
  }

  /** Waits until the page's own connection is `live` or `lost`. */
  link(state) {
    return this.until((wanted) => document.querySelector('[data-link]')?.dataset.link === wanted, state);
  }

  /** Waits until `probe`, run in the page, is true. It must not be asynchronous. */
  until(probe, argument) {
    return this.page.waitForFunction(probe, argument, { timeout: DEADLINE, polling: 50 });
  }

  /** Waits until the text of what `locator` finds fits. */
  async reads(locator, pattern) {
    const deadline = Date.now() + DEADLINE;
    for (;;) {
      const text = await locator.innerText();
      if (pattern.test(plain(text))) return plain(text);
      assert.ok(Date.now() < deadline, `${JSON.stringify(text)} never fits ${pattern}`);
      await this.page.waitForTimeout(50);
    }
  }

  /** Waits until the gateway's status fits. */
  async status(fits) {
    const deadline = Date.now() + DEADLINE;
    for (;;) {
      const status = await this.api('/status');
      if (fits(status)) return status;
      assert.ok(Date.now() < deadline, `the status never fits ${fits}: ${JSON.stringify(status)}`);
      await this.page.waitForTimeout(100);
    }
  }

  /** What the gateway's API answers. */
  async api(path) {
    const answer = await this.context.request.get(`${this.gateway.url}/api/v1${path}`);
    assert.equal(answer.status(), 200, path);
    return answer.json();
  }

  /** Whether the page has to be scrolled sideways. */
  overflows() {
    return this.page.evaluate(() => {
      const { scrollWidth, clientWidth } = document.documentElement;
      return scrollWidth > clientWidth;
    });
  }

  /** Forgets the complaints so far: for a test that takes the gateway away. */
  forgive() {
    this.complaints.length = 0;
  }

  /** Closes it; fails if it did what a page must not. */
  async close() {
    await this.context.close();
    assert.deepEqual(this.elsewhere, [], 'requests to anyone but the gateway');
    assert.deepEqual(this.complaints, [], 'complaints of the page');
  }
}

/** Text with every kind of blank as a plain one. */
export function plain(text) {
  return text.replace(/[\u00a0\u202f\u2009]/g, ' ');
}
