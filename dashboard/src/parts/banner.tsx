// Says that the page shows the past, since when, and when it tries again.

import { moment } from '../format/times.ts';
import { locale, texts } from '../i18n/index.ts';
import { second } from '../state/clock.ts';
import { connection, reconnect, status } from '../state/gateway.ts';

export function Banner() {
  const link = connection.value;
  if (link.state !== 'lost') return null;
  // Counts down with it.
  void second.value;
  const words = texts.value.shell;
  const left = Math.ceil((link.retryAt - Date.now()) / 1000);
  return (
    <div class="banner" role="alert">
      <p>
        <strong>
          {status.value
            ? words.lostSince(moment(link.since / 1000, Date.now() / 1000, locale.value))
            : words.unreachable}
        </strong>{' '}
        <span aria-hidden="true">{left > 0 ? words.retryIn(left) : words.retrying}</span>
      </p>
      <button type="button" onClick={reconnect}>{words.retry}</button>
    </div>
  );
}
