// A gateway that has users: signing in, what a role may do, and how a session ends.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { assertAccessible } from './lib/accessible.mjs';
import { Rig } from './lib/processes.mjs';
import { LOOKS, withDemo } from './lib/suite.mjs';

const PASSWORD = 'correct horse battery';
const users = ['viewer', 'operator', 'admin'].map((role) => ({ name: `an-${role}`, role, password: PASSWORD }));
const stage = withDemo(() => Rig.start({ devices: 2, users }));

async function signIn(view, user, password = PASSWORD) {
  await view.page.getByLabel('User').fill(user);
  await view.page.getByLabel('Password', { exact: true }).fill(password);
  await view.page.getByRole('button', { name: 'Sign in' }).click();
}

test('nothing is shown before somebody signs in, and everything after, without a reload', async () => {
  const view = await stage.open('/', { form: true });
  assert.equal(await view.page.locator('[data-device]').count(), 0);
  await view.page.evaluate(() => { globalThis.sameDocument = true; });
  await signIn(view, 'an-operator');
  await view.live();
  await view.page.locator('[data-device]').first().waitFor();
  assert.ok(await view.page.evaluate(() => globalThis.sameDocument));
  await view.page.getByText('an-operator').waitFor();
  // Who comes back is known.
  await view.page.reload();
  await view.live();
});

test('a wrong password is said, and whoever guesses waits', async () => {
  const view = await stage.open('/', { form: true });
  const fault = view.page.locator('.sign-in .fault');
  // Who does not exist, so that nobody of another test has to wait.
  await signIn(view, 'a-stranger', 'wrong');
  await view.reads(fault, /The user or the password is wrong/);
  while (!/Try again in \d+ s/.test(await fault.textContent())) {
    await view.page.getByRole('button', { name: 'Sign in' }).click();
    await view.until(() => document.querySelector('.sign-in .fault').textContent !== '');
  }
  assert.ok(await view.page.getByRole('button', { name: 'Sign in' }).isDisabled());
  // The browser itself notes each refusal.
  view.complaints.splice(0);
});

test('the form is one that keyboards and password managers know', async () => {
  const view = await stage.open('/', { form: true });
  const { page } = view;
  const [user, password] = [page.getByLabel('User'), page.getByLabel('Password', { exact: true })];
  assert.ok(await user.evaluate((field) => field === document.activeElement && field.autocomplete === 'username'));
  assert.equal(await password.getAttribute('autocomplete'), 'current-password');
  assert.equal(await password.getAttribute('type'), 'password');
  await page.getByLabel('Show the password').check();
  assert.equal(await password.getAttribute('type'), 'text');
  // Nothing is asked while a field is empty.
  await user.fill('an-operator');
  await user.press('Enter');
  assert.ok(await password.evaluate((field) => field.matches(':invalid')));
  await password.fill(PASSWORD);
  await password.press('Enter');
  await view.live();
});

test('the wait that the gateway asks for is counted down, and then one may try again', async () => {
  const view = await stage.open('/', { form: true });
  const { page } = view;
  let wait = '3';
  await page.route('**/api/v1/session', async (route) => {
    if (route.request().method() !== 'POST' || !wait) return route.fallback();
    return route.fulfill({ status: 429, headers: { 'retry-after': wait }, json: { error: 'too many' } });
  });
  const fault = page.locator('.sign-in .fault');
  const button = page.getByRole('button', { name: 'Sign in' });
  await signIn(view, 'an-operator');
  await view.reads(fault, /Try again in 3 s/);
  assert.ok(await button.isDisabled());
  wait = '';
  await view.reads(fault, /Try again in 1 s/);
  await view.until(() => !document.querySelector('.sign-in button').disabled);
  assert.equal(await fault.textContent(), '');
  await button.click();
  await view.live();
  view.forgive();
});

test('a session that ends covers the page, and signing in again goes on where it was', async () => {
  const view = await stage.open('/', { form: true });
  const { page } = view;
  await signIn(view, 'an-admin');
  await view.live();
  await page.locator('[data-device] a, a[data-device]').first().click();
  const command = page.getByLabel('Command', { exact: true });
  await command.fill('half-typ');
  const at = page.url();
  await page.evaluate(() => { globalThis.sameDocument = true; });
  // The sessions end with the gateway.
  await stage.gateway.gateway.kill();
  await view.link('lost');
  assert.equal(await page.getByRole('dialog').count(), 0, 'a gateway that is away does not ask who is there');
  await stage.gateway.startGateway();
  await page.getByRole('dialog', { name: 'Sign in to rig' }).waitFor();
  await page.getByText('Your session has ended').waitFor();
  assert.equal(await page.getByLabel('User').inputValue(), 'an-admin');
  assert.ok(await page.getByLabel('Password', { exact: true }).evaluate((field) => field === document.activeElement));
  // What is below is how it was, grey, and cannot be reached.
  assert.ok(await page.locator('article.reading').count() > 0);
  assert.equal(await page.locator('.shell').getAttribute('data-link'), 'lost');
  await command.evaluate((field) => field.focus());
  assert.ok(await command.evaluate((field) => field !== document.activeElement));
  await assertAccessible(view);

  await page.getByLabel('Password', { exact: true }).fill(PASSWORD);
  await page.getByLabel('Password', { exact: true }).press('Enter');
  await view.live();
  await page.getByRole('dialog').waitFor({ state: 'detached' });
  assert.equal(page.url(), at);
  assert.ok(await page.evaluate(() => globalThis.sameDocument));
  assert.equal(await command.inputValue(), 'half-typ');
  await view.until(() => document.activeElement?.name === 'command');
  view.forgive();
});

test('while nobody is signed in nothing is asked, and somebody else begins anew', async () => {
  const view = await stage.open('/#/gateway', { form: true });
  const { page } = view;
  await signIn(view, 'an-admin');
  await page.getByRole('heading', { name: 'Audit log' }).waitFor();
  await page.evaluate(() => { globalThis.sameDocument = true; });
  await page.evaluate(async () => {
    await fetch('/api/v1/session', { method: 'DELETE' });
  });
  await page.getByRole('dialog').waitFor();
  view.forgive();
  const asked = [];
  page.on('request', (request) => asked.push(request.url()));
  // Longer than the view waits before it asks again.
  await page.waitForFunction((from) => Date.now() > from + 6000, Date.now());
  assert.deepEqual(asked, []);
  assert.deepEqual(view.complaints, []);

  await page.getByLabel('User').fill('an-viewer');
  await page.getByLabel('Password', { exact: true }).fill(PASSWORD);
  await page.getByLabel('Password', { exact: true }).press('Enter');
  await page.getByText(/Only operators and admins may see the machine/).waitFor();
  await view.live();
  assert.equal(await page.evaluate(() => globalThis.sameDocument), undefined);
});

test('admins see who did what, newest first; operators do not', async () => {
  const view = await stage.open('/', { form: true });
  const { page } = view;
  await signIn(view, 'an-admin');
  await view.live();
  const sent = await page.evaluate(async () => (await fetch('/api/v1/devices/sim-1/commands', {
    method: 'POST', headers: { 'content-type': 'application/json' }, body: '{"name":"identify"}',
  })).status);
  assert.equal(sent, 202);
  await page.getByRole('link', { name: 'Gateway' }).click();
  const audit = page.getByRole('region', { name: 'Audit log' });
  await view.reads(audit.locator('tbody tr').first(), /an-admin admin\s+command\s+identify to sim-1[\s\S]*(queued|delivered|done)\s+127\.0\.0\.1/);
  await view.reads(audit, /an-admin admin\s+sign-in[\s\S]*ok/);
  await audit.getByRole('searchbox').fill('IDENTIFY');
  await view.until(() => [...document.querySelectorAll('.audit tbody tr')].every((row) => /identify/.test(row.textContent)));
  await assertAccessible(view);
  assert.ok(!await view.overflows());
  await page.getByRole('button', { name: 'Sign out' }).click();
  await page.getByRole('form').waitFor();
  assert.equal(await page.getByRole('dialog').count(), 0);

  await signIn(view, 'an-operator');
  await page.getByRole('heading', { name: 'Log', exact: true }).waitFor();
  assert.equal(await page.getByRole('heading', { name: 'Audit log' }).count(), 0);
});

test('signing out ends it at once, also in another tab', async () => {
  const view = await stage.open('/', { form: true });
  await signIn(view, 'an-admin');
  await view.live();
  const other = await view.context.newPage();
  await other.goto(stage.gateway.url);
  await other.locator('[data-device]').first().waitFor();
  await view.page.getByRole('button', { name: 'Sign out' }).click();
  await view.page.getByRole('form').waitFor();
  // Nothing of it stays, in either.
  for (const page of [view.page, other]) {
    await page.getByRole('form').waitFor();
    await page.getByRole('dialog').waitFor({ state: 'detached' });
    await page.locator('[data-device]').first().waitFor({ state: 'detached' });
  }
  // Nor is there more to do in the other tab than in the first one.
  await signIn(view, 'an-admin');
  await view.live();
  await other.locator('[data-device]').first().waitFor();
});

test('a viewer sees devices, and is told why there is no more', async () => {
  const view = await stage.open('/', { form: true });
  await signIn(view, 'an-viewer');
  await view.live();
  await view.page.locator('[data-device] a, a[data-device]').first().click();
  await view.page.getByText(/Only operators and admins may send commands/).waitFor();
  assert.equal(await view.page.getByRole('button', { name: 'Send' }).count(), 0);
  // What was commanded is no secret.
  await view.page.getByRole('heading', { name: 'Last commands' }).waitFor();
  await view.page.getByRole('link', { name: 'Gateway' }).click();
  await view.page.getByText(/Only operators and admins may see/).waitFor();
});

test('whoever is removed is out', async () => {
  stage.gateway.addUser({ name: 'leaving', role: 'operator', password: PASSWORD });
  const view = await stage.open('/', { form: true });
  for (;;) {
    // The file is looked at every second.
    await signIn(view, 'leaving');
    const done = await Promise.race([
      view.live().then(() => true),
      view.reads(view.page.getByRole('alert'), /wrong|Try again/).then(() => false),
    ]).catch(() => false);
    if (done) break;
    await view.page.getByRole('button', { name: 'Sign in', disabled: false }).waitFor();
  }
  stage.gateway.removeUser('leaving');
  await view.page.getByRole('form').waitFor();
  view.complaints.splice(0);
});

for (const { look, options } of LOOKS) {
  test(`the form is accessible (${look})`, async () => {
    const view = await stage.open('/', { form: true, ...options });
    await assertAccessible(view);
  });
}
