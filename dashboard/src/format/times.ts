// How times read. In the viewer's zone; UTC for whoever hovers.

/** What a language writes behind the number of a span, with its space where it has one. */
export interface SpanWords {
  s: string;
  min: string;
  h: string;
  d: string;
}

/** A span of seconds in one word: `12 s`, `3 min`, `5 h`, `2 d`. Never broken over lines. */
export function span(seconds: number, words: SpanWords): string {
  const whole = (size: number, unit: string) => `${Math.max(0, Math.floor(seconds / size))}${unit}`;
  if (seconds < 60) return whole(1, words.s);
  if (seconds < 3600) return whole(60, words.min);
  if (seconds < 86400) return whole(3600, words.h);
  return whole(86400, words.d);
}

/** How long ago, of what should be new: `now` for less than two seconds. */
export function age(seconds: number, words: { now: string; span: SpanWords }): string {
  return seconds < 1.5 ? words.now : span(seconds, words.span);
}

// Making a format costs a hundred times what using it does.
const clocks = new Map<string, { time: Intl.DateTimeFormat; date: Intl.DateTimeFormat }>();

/** A moment (Unix seconds) as a clock shows it, with the date when it was not on the day of `now`. */
export function moment(seconds: number, now: number, locale: string): string {
  let clock = clocks.get(locale);
  if (!clock) {
    clock = {
      time: new Intl.DateTimeFormat(locale, { timeStyle: 'medium' }),
      date: new Intl.DateTimeFormat(locale),
    };
    clocks.set(locale, clock);
  }
  const then = new Date(seconds * 1000);
  if (Number.isNaN(then.getTime())) return '';
  const time = clock.time.format(then);
  const today = new Date(now * 1000).toDateString() === then.toDateString();
  return today ? time : `${clock.date.format(then)} ${time}`;
}

/** The same moment in UTC, to the millisecond (ISO 8601). */
export function utc(seconds: number): string {
  const then = new Date(seconds * 1000);
  return Number.isNaN(then.getTime()) ? '' : then.toISOString().replace('T', ' ').replace('Z', ' UTC');
}
