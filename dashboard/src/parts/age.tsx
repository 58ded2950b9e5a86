// How long ago something was, counting on by itself; the moment itself for whoever hovers.

import { age, moment, utc } from '../format/times.ts';
import { locale, texts } from '../i18n/index.ts';
import { second } from '../state/clock.ts';

/** `at`: Unix seconds on the gateway's clock. */
export function Age({ at }: { at: number }) {
  const now = second.value;
  return (
    <time class="age" title={`${moment(at, now, locale.value)} · ${utc(at)}`}>
      {age(now - at, texts.value.words)}
    </time>
  );
}
