// The configuration in force, as it would stand in the file.

import type { Setting } from '../../api/types.ts';
import { texts } from '../../i18n/index.ts';
import { tables } from './toml.ts';

export function Configuration({ file, tables: settings }: { file: string; tables: { [key: string]: Setting } }) {
  const words = texts.value.gateway;
  return (
    <section class="panel configuration" aria-labelledby="configuration-title">
      <h3 id="configuration-title">{words.configuration}</h3>
      <p class="note">{words.configurationNote} <span class="path">{file}</span></p>
      <div class="tables">
        {tables(settings).map(({ path, entries }) => (
          <div key={path} class="table">
            <h4>[{path}]</h4>
            <dl>
              {entries.map(({ key, value }) => (
                <div key={key}><dt>{key}</dt>{' '}<dd><span class="equals">= </span>{value}</dd></div>
              ))}
            </dl>
          </div>
        ))}
      </div>
    </section>
  );
}
