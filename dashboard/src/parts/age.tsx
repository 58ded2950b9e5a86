// How long ago something was, counting on by itself; the moment itself for whoever hovers.

import { age, moment, utc } from '../format/times.ts';
import { locale, texts } from '../i18n/index.ts';
import { second } from '../state/clock.ts';

/** `at`: Unix seconds on the gateway's clock. */
export function Age({ at }: { at: number }) {
  // Written when it is wanted: there may be hundreds, each changing every second.
  const tell = (event: MouseEvent) => {
    (event.currentTarget as HTMLElement).title = `${moment(at, second.peek(), locale.peek())} · ${utc(at)}`;
  };
  return <span class="age" onMouseEnter={tell}>{age(second.value - at, texts.value.words)}</span>;
}
