// A moment, in the viewer's zone; UTC for whoever hovers.

import { moment, utc } from '../format/times.ts';
import { locale } from '../i18n/index.ts';
import { second } from '../state/clock.ts';

/** `at`: Unix seconds. */
export function Moment({ at }: { at: number }) {
  return <time title={utc(at)}>{moment(at, second.peek(), locale.value)}</time>;
}
