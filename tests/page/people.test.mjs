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
  await signIn(view, 'an-admin', 'wrong');
  await view.reads(fault, /The user or the password is wrong/);
  while (!/Try again in \d+ s/.test(await fault.textContent())) {
    await view.page.getByRole('button', { name: 'Sign in' }).click();
    await view.until(() => document.querySelector('.sign-in .fault').textContent !== '');
  }
  assert.ok(await view.page.getByRole('button', { name: 'Sign in' }).isDisabled());
  // The browser itself notes each refusal.
  view.complaints.splice(0);
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
  await other.getByRole('form').waitFor();
});

test('a viewer sees devices, and is told why there is no more', async () => {
  const view = await stage.open('/', { form: true });
  await signIn(view, 'an-viewer');
  await view.live();
  await view.page.locator('[data-device] a, a[data-device]').first().click();
  await view.page.getByText(/Only operators and admins/).waitFor();
  assert.equal(await view.page.getByRole('button', { name: 'Send' }).count(), 0);
  await view.page.getByRole('link', { name: 'Gateway' }).click();
  await view.page.getByText(/Only operators and admins/).waitFor();
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
