// A live chart of one numeric reading: the mean as a line, least and greatest as a band.

import { useComputed, useSignal, useSignalEffect } from '@preact/signals';
import { useEffect, useMemo, useRef } from 'preact/hooks';
import uPlot from 'uplot';
import 'uplot/dist/uPlot.min.css';

import { scaleOf, shownNumber } from '../../format/numbers.ts';
import { texts } from '../../i18n/index.ts';
import { onReadings } from '../../state/fleet.ts';
import { connection } from '../../state/gateway.ts';
import { range, type Frame } from './frame.ts';
import { useHistory } from './history.ts';
import { readWithKeys } from './keys.ts';
import { coloursOf, options, type Colours } from './plot.ts';
import { Series, type Columns, type Summary } from './series.ts';
import { scheme } from './scheme.ts';
import { covered, isUtc, utcClock } from './times.ts';

const HEIGHT = 168;

interface Props {
  device: string;
  name: string;
  unit: string | null | undefined;
  frame: Frame;
}

/** What the charts say in words. */
interface Said {
  summary: Summary | null;
  /** At the moment that is pointed at. */
  here: { at: number; step: number; values: Summary | null } | null;
}

export function Chart({ device, name, unit, frame }: Props) {
  const words = texts.value.device;
  const box = useRef<HTMLDivElement>(null);
  const plot = useRef<uPlot | null>(null);
  const columns = useRef<Columns | null>(null);
  const factor = useRef(1);
  const colours = useRef<Colours>({ line: '', band: '', grid: '', text: '' });
  const series = useMemo(() => new Series(), [device, name]);
  const revision = useSignal(0);
  const loaded = useSignal(false);
  const missing = useSignal(false);
  const said = useSignal<Said>({ summary: null, here: null });
  const lost = useComputed(() => connection.value.state === 'lost');

  useHistory(device, name, frame, (history) => {
    series.seed(history);
    loaded.value = true;
    missing.value = false;
    revision.value += 1;
  }, () => {
    series.seed({ name, unit: null, from: 0, to: 0, step_s: 0, points: [], states: [] });
    loaded.value = true;
    missing.value = true;
    revision.value += 1;
  });

  useEffect(() => onReadings((id, records) => {
    if (id !== device) return;
    for (const record of records) {
      const value = record.v ?? record.s;
      if (record.n === name && value !== undefined) series.add(record.t, value, frame.still.peek());
    }
  }), [series]);

  useEffect(() => {
    const element = box.current;
    if (!element) return undefined;
    colours.current = coloursOf(element);
    const made = new uPlot(options(element.clientWidth, HEIGHT, {
      colours: () => colours.current,
      zoomed: (from, to) => frame.zoomTo(from, to),
      reset: () => frame.reset(),
    }), [[], [], [], []], element);
    plot.current = made;
    const point = (event: PointerEvent) => {
      const left = event.clientX - made.over.getBoundingClientRect().left;
      frame.pointer.value = { time: made.posToVal(left, 'x'), by: name };
    };
    const leave = () => {
      frame.pointer.value = null;
    };
    made.over.addEventListener('pointermove', point);
    made.over.addEventListener('pointerdown', point);
    made.over.addEventListener('pointerleave', leave);
    const resized = new ResizeObserver(() => made.setSize({ width: element.clientWidth, height: HEIGHT }));
    resized.observe(element);
    revision.value += 1;
    return () => {
      resized.disconnect();
      made.destroy();
      plot.current = null;
    };
  }, [series]);

  // What is drawn: anew each second at most, as time goes on.
  useSignalEffect(() => {
    const { from, to } = frame.shown.value;
    void revision.value;
    if (!frame.still.peek()) series.trim(to - range.peek());
    const summary = series.summary(from, to);
    const size = summary ? Math.max(Math.abs(summary.min), Math.abs(summary.max)) : 0;
    factor.current = scaleOf(size, unit).factor;
    const made = series.columns(from, to, factor.current);
    columns.current = made;
    plot.current?.batch(() => {
      plot.current?.setData([made.times, made.means, made.mins, made.maxs], false);
      plot.current?.setScale('x', { min: from, max: to });
    });
    said.value = { summary, here: said.peek().here };
    follow(frame.pointer.peek());
  });

  // The moment that is pointed at, here or in another chart.
  useSignalEffect(() => follow(frame.pointer.value));

  function follow(pointer: { time: number; by: string } | null): void {
    const here = plot.current;
    if (!here || !columns.current) return;
    const { from, to } = frame.shown.peek();
    if (!pointer || pointer.time < from || pointer.time > to) {
      here.setCursor({ left: -10, top: -10 }, false);
      if (said.peek().here) said.value = { ...said.peek(), here: null };
      return;
    }
    here.setCursor({ left: here.valToPos(pointer.time, 'x'), top: 0 }, false);
    const index = here.valToIdx(pointer.time);
    const { starts, mins, means, maxs } = columns.current;
    const [min, mean, max] = [mins[index], means[index], maxs[index]];
    const known = typeof min === 'number' && typeof mean === 'number' && typeof max === 'number';
    const by = factor.current;
    said.value = {
      ...said.peek(),
      here: {
        at: known ? starts[index] ?? pointer.time : pointer.time,
        step: known ? series.step : 0,
        values: known ? { min: min / by, mean: mean / by, max: max / by } : null,
      },
    };
  }

  useSignalEffect(() => {
    void [scheme.value, lost.value];
    // The style sheet has to know first that the connection is lost.
    const later = requestAnimationFrame(() => {
      if (!box.current) return;
      colours.current = coloursOf(box.current);
      plot.current?.redraw(false);
    });
    return () => cancelAnimationFrame(later);
  });

  function key(event: KeyboardEvent): void {
    const { from, to } = frame.shown.peek();
    readWithKeys(event, frame, name, columns.current?.times.filter((time, index) =>
      time >= from && time <= to && columns.current?.means[index] !== null) ?? []);
  }

  const { summary, here } = said.value;
  const text = (value: number) => {
    const { text: number, unit: shown } = shownNumber(value, unit);
    return shown ? `${number}\u202f${shown}` : number;
  };
  const { from, to } = frame.shown.value;
  const at = here ? covered(here.at, here.step) : '';
  const valueText = here
    ? `${at}: ${here.values ? text(here.values.mean) : words.chart.nothing}`
    : summary ? words.chart.summary(text(summary.min), text(summary.mean), text(summary.max)) : words.chart.empty;
  return (
    <div class="chart">
      <div
        class="plot"
        role="slider"
        tabIndex={0}
        aria-label={words.chart.label(name)}
        aria-describedby="chart-keys"
        aria-valuemin={Math.floor(from)}
        aria-valuemax={Math.ceil(to)}
        aria-valuenow={Math.round(Math.min(Math.max(here?.at ?? to, from), to))}
        aria-valuetext={valueText}
        onKeyDown={key}
        onBlur={() => { frame.pointer.value = null; }}
      >
        <div ref={box} class="canvas" />
        {!summary && (
          <p class="blank">{loaded.value || lost.value ? words.chart.empty : words.chart.loading}</p>
        )}
      </div>
      <p class="figures-line">
        {here ? (
          <>
            <span class="when">{at}{isUtc(here.at) ? ' UTC' : <> <small>{utcClock(here.at)}</small></>}</span>
            {here.values ? (
              <span>
                <b>{text(here.values.mean)}</b>
                {here.values.min !== here.values.max && (
                  <small> {shownNumber(here.values.min, unit).text} … {shownNumber(here.values.max, unit).text}</small>
                )}
              </span>
            ) : <span>{words.chart.nothing}</span>}
          </>
        ) : summary ? (
          <>
            <span>{words.chart.min} <b>{text(summary.min)}</b></span>
            <span>{words.chart.mean} <b>{text(summary.mean)}</b></span>
            <span>{words.chart.max} <b>{text(summary.max)}</b></span>
          </>
        ) : <span>{missing.value ? words.chart.missing : '\u00a0'}</span>}
      </p>
    </div>
  );
}
