// Times as the charts write them: in the viewer's zone, 24 hours a day in every language.

import { utc } from '../../format/times.ts';

const SHORT: Intl.DateTimeFormatOptions = { hour: '2-digit', minute: '2-digit', hourCycle: 'h23' };
const formats = {
  minutes: new Intl.DateTimeFormat('en-GB', SHORT),
  seconds: new Intl.DateTimeFormat('en-GB', { ...SHORT, second: '2-digit' }),
  day: new Intl.DateTimeFormat('sv-SE', { month: '2-digit', day: '2-digit' }),
};

/** A moment with seconds where `step` (seconds) needs them; at midnight the day (month-day). */
export function clock(time: number, step: number): string {
  const moment = new Date(time * 1000);
  if (step >= 60) {
    const text = formats.minutes.format(moment);
    return text === '00:00' ? formats.day.format(moment) : text;
  }
  return formats.seconds.format(moment);
}

/** A moment, or what a bucket of `step` seconds covers. */
export function covered(time: number, step: number): string {
  const at = formats.seconds.format(new Date(time * 1000));
  return step < 5 ? at : `${at} – ${formats.seconds.format(new Date((time + step) * 1000))}`;
}

/** The time of day in UTC: `14:02:03 UTC`. */
export function utcClock(time: number): string {
  return `${utc(time).slice(11, 19)} UTC`;
}

/** Whether the viewer's clock shows UTC anyway. */
export function isUtc(time: number): boolean {
  return new Date(time * 1000).getTimezoneOffset() === 0;
}
