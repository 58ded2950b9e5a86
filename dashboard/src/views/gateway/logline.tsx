// One entry of the log.

import { moment, utc } from '../../format/times.ts';
import { locale, texts } from '../../i18n/index.ts';
import { gatewayTime } from '../../state/clock.ts';
import { href } from '../../state/router.ts';
import type { Line } from '../../state/log.ts';
import { said } from './filter.ts';

export function LogLine({ line }: { line: Line }) {
  return (
    <li data-level={line.level}>
      <time dateTime={new Date(line.time * 1000).toISOString()} title={utc(line.time)}>
        {moment(line.time, gatewayTime(), locale.value)}
      </time>
      <span class="level">{texts.value.gateway.log.levels[line.level]}</span>
      <span class="said" title={line.target}>
        {line.message}
        {Object.entries(line.fields).map(([key, value]) => (
          <span key={key} class="field">
            {' '}{key}=
            {key === 'device' && typeof value === 'string'
              ? <a href={href({ view: 'device', id: value })}>{value}</a>
              : said(value)}
          </span>
        ))}
      </span>
    </li>
  );
}
