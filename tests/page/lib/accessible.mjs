// axe-core on what a page shows now.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';

const source = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');

/** Fails with each rule of WCAG 2.2 AA, and of axe's good practice, that the page breaks. */
export async function assertAccessible(view) {
  // As an expression, since the page's policy lets no script of ours in.
  await view.page.evaluate(source);
  const violations = await view.page.evaluate(async () => {
    const found = await globalThis.axe.run(document, { resultTypes: ['violations'] });
    return found.violations.map(({ id, help, nodes }) => ({
      id, help, nodes: nodes.slice(0, 5).map((node) => `${node.target}: ${node.failureSummary}`),
    }));
  });
  assert.deepEqual(violations, []);
}
