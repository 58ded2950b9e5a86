import assert from 'node:assert/strict';
import { test } from 'node:test';

import { assertAccessible } from './lib/accessible.mjs';
import { LOOKS, withDemo } from './lib/suite.mjs';

const stage = withDemo();

for (const { look, options } of LOOKS) {
  test(`the overview view is accessible and nothing runs over: ${look}`, async () => {
    const view = await stage.open('/', options);
    await assertAccessible(view);
    assert.ok(!await view.overflows(), 'the page scrolls sideways');
  });
}
