// A device in the overview, as a card or as a line of a list.

import { useComputed } from '@preact/signals';
import { useEffect, useMemo, useRef } from 'preact/hooks';

import type { Reading } from '../../api/types.ts';
import { shownReading, type Shown } from '../../format/numbers.ts';
import { span } from '../../format/times.ts';
import { texts } from '../../i18n/index.ts';
import { Age } from '../../parts/age.tsx';
import { Sparkline } from '../../parts/sparkline.tsx';
import { StateBadge } from '../../parts/state-badge.tsx';
import { gatewayTime, second } from '../../state/clock.ts';
import type { Device, DeviceState } from '../../state/fleet.ts';
import { knownAt } from '../../state/known.ts';
import { href } from '../../state/router.ts';
import type { Trend } from './trend.ts';
import { trendsOf, watch } from './trends.ts';

// A line is drawn anew after this many seconds; not all cards in the same second.
const REDRAW = 4;

interface Props {
  device: Device;
  /** Its place among all that are shown, for those who cannot see how many there are. */
  place: number;
  of: number;
}

/** What every view of a device in the overview needs to know. */
function useDevice(device: Device): { state: DeviceState; named: [string, Reading][]; decimals: Map<string, number> } {
  void device.version.value;
  const state = useComputed(() => device.stateAt(knownAt.value) satisfies DeviceState).value;
  // What a number used before, so that it does not change its width with every message.
  const decimals = useRef(new Map<string, number>()).current;
  // Numbers first: they have lines, and are what changes.
  const rank = ({ v, s, vb }: Reading) => (v !== undefined || s !== undefined ? 0 : vb === undefined ? 1 : 2);
  const named = [...device.readings]
    .sort(([a, left], [b, right]) => rank(left) - rank(right) || (a < b ? -1 : 1));
  return { state, named, decimals };
}

function show(name: string, reading: Reading, decimals: Map<string, number>): Shown {
  const shown = shownReading(reading, texts.value.words, decimals.get(name));
  decimals.set(name, shown.decimals);
  return shown;
}

function Name({ device }: { device: Device }) {
  return <h3><a href={href({ view: 'device', id: device.id })}>{device.id}</a></h3>;
}

// Takes the times themselves: a component with signals is drawn anew only when a prop or a signal
// changes, and a device stays the same object.
function Heard({ at, since, state }: { at: number | null; since: number | null; state: DeviceState }) {
  const { overview: words, words: { span: spans } } = texts.value;
  if (state === 'offline' && since !== null) {
    return <span class="age">{words.awaySince(span(knownAt.value - since, spans))}</span>;
  }
  return at === null ? null : <><span class="unseen">{words.heard} </span><Age at={at} /></>;
}

export function Card({ device, place, of, room }: Props & { room: number }) {
  const { state, named, decimals } = useDevice(device);
  const words = texts.value.overview;
  useEffect(() => watch(device.id), [device]);
  const trends = trendsOf(device.id);
  void trends.version.value;
  const { model, firmware } = device.facts;
  const more = named.length - room;
  return (
    <li class="card" data-device={device.id} data-state={state} aria-posinset={place} aria-setsize={of}>
      <article>
        <header>
          <Name device={device} />
          <StateBadge state={state} />
        </header>
        <p class="about">
          <span class="model" title={[model, firmware].filter(Boolean).join(' · ')}>
            {[model, firmware].filter(Boolean).join(' · ')}
          </span>
          <Heard at={device.heard} since={device.facts.since} state={state} />
        </p>
        {named.length === 0 ? <p class="none">{words.noReading}</p> : (
          <dl class={named.length === 1 && room === 1 ? 'rows single' : 'rows'}>
            {named.slice(0, room).map(([name, reading]) => (
              <Row
                key={name}
                device={device}
                name={name}
                reading={reading}
                shown={show(name, reading, decimals)}
                trend={trends.byName.get(name)}
                known={trends.version.peek()}
              />
            ))}
          </dl>
        )}
        {more > 0 && <p class="more">{words.more(more)}</p>}
      </article>
    </li>
  );
}

interface RowProps {
  device: Device;
  name: string;
  reading: Reading;
  shown: Shown;
  trend: Trend | undefined;
  known: number;
}

function Row({ device, name, reading, shown, trend, known }: RowProps) {
  const { overview: words, words: { span: spans } } = texts.value;
  const old = useComputed(() => device.isOld(name, second.value)).value;
  return (
    <div class={old ? 'row old' : 'row'}>
      <dt title={name}>{name}</dt>
      <dd class="trend">
        {old ? <span class="age">{words.old(span(second.value - reading.t, spans))}</span>
          : trend && trend.samples.length > 1
            && <Line device={device} trend={trend} known={known} />}
      </dd>
      <dd class={shown.words ? 'value words' : 'value'} {...(shown.words ? { title: shown.text } : {})}>
        <span class="text">{shown.text}</span>{shown.unit && <span class="unit">{shown.unit}</span>}
      </dd>
    </div>
  );
}

function Line({ device, trend, known }: { device: Device; trend: Trend; known: number }) {
  // Spread over the seconds by name, so that not all lines are drawn in the same frame.
  const phase = (device.id.length + (device.id.codePointAt(device.id.length - 1) ?? 0)) % REDRAW;
  const turn = useComputed(() => Math.floor((second.value + phase) / REDRAW)).value;
  return useMemo(() => {
    const to = gatewayTime();
    return (
      <Sparkline
        lines={[{ samples: [...trend.samples] }]}
        from={trend.start(to)}
        to={to}
        gap={trend.gap(device.facts.interval_s ?? 0)}
      />
    );
  }, [trend, turn, known]);
}

export function Item({ device, place, of }: Props) {
  const { state, named, decimals } = useDevice(device);
  return (
    <li class="item" data-device={device.id} data-state={state} aria-posinset={place} aria-setsize={of}>
      <Name device={device} />
      <StateBadge state={state} />
      <dl>
        {named.slice(0, 6).map(([name, reading]) => {
          const { text, unit } = show(name, reading, decimals);
          return (
            <div key={name} class={device.isOld(name, second.peek()) ? 'old' : ''}>
              <dt>{name}</dt>
              <dd class="value"><span class="text">{text}</span>{unit && <span class="unit">{unit}</span>}</dd>
            </div>
          );
        })}
      </dl>
      <Heard at={device.heard} since={device.facts.since} state={state} />
    </li>
  );
}
