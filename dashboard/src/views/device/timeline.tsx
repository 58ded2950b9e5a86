// A text or boolean reading over time: what it was and how long, and its last changes as a list.

import { useComputed, useSignal } from '@preact/signals';
import { useEffect } from 'preact/hooks';

import { span } from '../../format/times.ts';
import { texts } from '../../i18n/index.ts';
import { Moment } from '../../parts/moment.tsx';
import { fleet, onReadings } from '../../state/fleet.ts';
import { knownAt } from '../../state/known.ts';
import type { Frame } from './frame.ts';
import { useHistory } from './history.ts';
import { readWithKeys } from './keys.ts';
import { added, at, bars, joined, segments, type Change, type State } from './segments.ts';
import { clock, isUtc, utcClock } from './times.ts';

/** A bar narrower than this part of the whole cannot be told from its neighbours. */
const NARROWEST = 1 / 250;
/** Less than this part has no room for a word. */
const WORDY = 0.08;
/** How many colours there are for texts; see charts.css. */
const TINTS = 6;
const LISTED = 5;

export function Timeline({ device, name, frame }: { device: string; name: string; frame: Frame }) {
  const { device: words, words: common } = texts.value;
  const changes = useSignal<readonly Change[]>([]);
  const all = useSignal(false);

  useHistory(device, name, frame, (history) => {
    changes.value = joined(history.states, history.to, changes.peek());
  }, () => {});

  useEffect(() => {
    const take = (time: number, value: State | undefined) => {
      if (value !== undefined) changes.value = added(changes.peek(), time, value);
    };
    // What is so now is known before any history is.
    const now = fleet.get(device)?.readings.get(name);
    if (now) take(now.t, now.vb ?? now.vs);
    return onReadings((id, records) => {
      if (id !== device) return;
      for (const record of records) if (record.n === name) take(record.t, record.vb ?? record.vs);
    });
  }, [device, name]);

  // A state goes on as long as its device is heard; of a device that is silent nothing is known.
  const until = useComputed(() => {
    const model = fleet.get(device);
    void model?.version.value;
    const last = model?.readings.get(name)?.t ?? 0;
    return model?.stateAt(knownAt.value) === 'online' ? Math.max(last, knownAt.value + 1) : last;
  });

  const { from, to } = frame.shown.value;
  const length = to - from;
  const found = segments(changes.value, from, to, until.value);
  const share = (seconds: number) => `${(seconds / length) * 100}%`;
  const label = (value: State) => (typeof value === 'boolean' ? (value ? common.yes : common.no) : value || '""');
  const tints = new Map<State, number>();
  for (const [, value] of changes.value) {
    if (!tints.has(value)) tints.set(value, tints.size % TINTS);
  }
  const tint = (value: State | null) =>
    value === null ? 'mixed' : typeof value === 'boolean' ? String(value) : String(tints.get(value) ?? 0);

  const pointer = frame.pointer.value;
  const pointed = pointer && pointer.time >= from && pointer.time <= to ? pointer.time : null;
  const here = pointed === null ? undefined : at(found, pointed);
  const listed = found.toReversed().slice(0, all.value ? 100 : LISTED);
  const point = (event: PointerEvent) => {
    const { left, width } = (event.currentTarget as Element).getBoundingClientRect();
    frame.pointer.value = { time: from + ((event.clientX - left) / width) * length, by: name };
  };

  const changed = words.timeline.changes(Math.max(0, found.length - 1));
  const summary = found.length === 0 ? words.chart.empty : changed;
  const told = pointed === null ? summary
    : `${clock(pointed, 1)}: ${here ? `${label(here.value)}, ${span(here.to - here.from, common.span)}` : words.chart.nothing}`;
  return (
    <div class="timeline">
      <div
        class="track"
        role="slider"
        tabIndex={0}
        aria-label={words.timeline.label(name)}
        aria-describedby="chart-keys"
        aria-valuemin={Math.floor(from)}
        aria-valuemax={Math.ceil(to)}
        aria-valuenow={Math.round(pointed ?? to)}
        aria-valuetext={told}
        onKeyDown={(event) => readWithKeys(event, frame, name, found.map((segment) => segment.from))}
        onBlur={() => { frame.pointer.value = null; }}
        onPointerMove={point}
        onPointerDown={point}
        onPointerLeave={() => { frame.pointer.value = null; }}
      >
        {bars(found, length * NARROWEST).map((bar) => (
          <span
            key={bar.from}
            class="bar"
            data-tint={tint(bar.value)}
            style={{ left: share(bar.from - from), width: share(bar.to - bar.from) }}
          >
            {bar.value !== null && bar.to - bar.from > length * WORDY ? label(bar.value) : ''}
          </span>
        ))}
        {pointed !== null && <span class="here" style={{ left: share(pointed - from) }} />}
      </div>
      <p class="ends" aria-hidden="true">
        <span>{clock(from, length > 3600 ? 60 : 1)}</span>
        <span>{clock(to, length > 3600 ? 60 : 1)}</span>
      </p>
      <p class="figures-line">
        {pointed !== null ? (
          <>
            <span class="when">
              {clock(pointed, 1)}{isUtc(pointed) ? ' UTC' : <> <small>{utcClock(pointed)}</small></>}
            </span>
            <span>{here ? <><b>{label(here.value)}</b> <small>{span(here.to - here.from, common.span)}</small></>
              : words.chart.nothing}</span>
          </>
        ) : <span>{summary}</span>}
      </p>
      {listed.length > 0 && (
        <ol class="changes" aria-label={words.timeline.last}>
          {listed.map((segment) => (
            <li key={segment.from}>
              <span class="swatch" data-tint={tint(segment.value)} />
              <span class="what">{label(segment.value)}</span>
              <span class="quiet">{segment.from <= from ? words.timeline.before : <Moment at={segment.from} />}</span>
              <span class="quiet long">{span(segment.to - segment.from, common.span)}</span>
            </li>
          ))}
        </ol>
      )}
      {found.length > LISTED && (
        <button type="button" class="plain" aria-expanded={all.value} onClick={() => { all.value = !all.value; }}>
          {all.value ? words.less : words.timeline.more}
        </button>
      )}
    </div>
  );
}
