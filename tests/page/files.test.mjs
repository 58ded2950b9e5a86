// The files of the page as they are built: how much there is to load, and that they stand alone.
// TIDEGATE_PAGE is the folder that `npm run build` left.

import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { gzipSync } from 'node:zlib';

// What makes the page slow on a phone in a plant, in bytes.
const MOST = 100_000;
// Names of XML vocabularies. Nobody asks them for anything.
const VOCABULARIES = /http:\/\/www\.w3\.org\/(2000\/svg|1999\/xhtml|1998\/Math\/MathML|1999\/xlink)/g;

const folder = process.env.TIDEGATE_PAGE;
const files = folder
  ? readdirSync(folder, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath ?? entry.path, entry.name))
  : [];

test('all files of the page are under 100 kB compressed', (t) => {
  assert.ok(files.length > 2, 'TIDEGATE_PAGE names no built page');
  const total = files.reduce((sum, file) => sum + gzipSync(readFileSync(file), { level: 9 }).length, 0);
  t.diagnostic(`${total} bytes in ${files.length} files`);
  assert.ok(total < MOST, `${total} bytes`);
});

test('no file of the page names another host', () => {
  assert.ok(files.length > 2, 'TIDEGATE_PAGE names no built page');
  for (const file of files) {
    const found = readFileSync(file, 'utf8').replace(VOCABULARIES, '').match(/(https?:|wss?:)?\/\/[\w-]+(\.[\w-]+)+[^\s"'`]*/g);
    assert.equal(found, null, file);
  }
});
