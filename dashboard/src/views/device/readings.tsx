// All charts of a device, with the time that they share and a search for names.

import { useSignal } from '@preact/signals';

import { texts } from '../../i18n/index.ts';
import { Find } from '../../parts/find.tsx';
import type { Device } from '../../state/fleet.ts';
import { kindOf, ReadingCard, type Kind } from './card.tsx';
import { RANGES, range, type Frame } from './frame.ts';
import { clock } from './times.ts';
import './charts.css';

/** With fewer names nobody needs to search. */
const MANY = 9;

const collator = new Intl.Collator('en', { numeric: true });

export function sortedNames(device: Device): string[] {
  return [...device.readings.keys()].sort(collator.compare);
}

export function Readings({ device, frame }: { device: Device; frame: Frame }) {
  const words = texts.value.device;
  const search = useSignal('');
  // Which names there are, and of what kind they are.
  void device.version.value;
  const names = sortedNames(device);
  const sought = search.value.trim().toLowerCase();
  const found = sought ? names.filter((name) => name.toLowerCase().includes(sought)) : names;
  const of = (kind: Kind) => found.filter((name) => kindOf(device, name) === kind);
  const [numbers, states] = [of('number'), of('state')];
  const card = (kind: Kind) => (name: string) =>
    <ReadingCard key={name} device={device} name={name} kind={kind} frame={frame} />;
  return (
    <section class="readings" aria-labelledby="readings-title">
      <div class="time-bar">
        <h3 id="readings-title" tabIndex={-1}>{words.readings}</h3>
        {names.length >= MANY && <Find name={words.search(names.length)} sought={search} />}
        <TimeControls frame={frame} />
      </div>
      <p id="chart-keys" class="unseen">{words.chart.keys}</p>
      {names.length === 0 && <p class="note">{words.noReadings}</p>}
      {names.length > 0 && found.length === 0 && <p class="note">{words.noneFound(search.value.trim())}</p>}
      <div class="reading-grid">{numbers.map(card('number'))}{states.map(card('state'))}</div>
    </section>
  );
}

function TimeControls({ frame }: { frame: Frame }) {
  const words = texts.value.device.time;
  const zoom = frame.zoom.value;
  const still = frame.still.value;
  return (
    <div class="time-controls">
      <fieldset>
        <legend class="unseen">{words.range}</legend>
        {RANGES.map((seconds) => (
          <label key={seconds}>
            <input
              type="radio"
              name="range"
              checked={range.value === seconds}
              onChange={() => frame.choose(seconds)}
            />
            <span>{words.ranges[seconds]}</span>
          </label>
        ))}
      </fieldset>
      {zoom && (
        <button type="button" class="plain zoomed" onClick={() => frame.reset()}>
          {words.reset(clock(zoom.from, 1), clock(zoom.to, 1))}
        </button>
      )}
      <button type="button" class="pause" aria-pressed={still} onClick={() => frame.toggle()}>
        <svg viewBox="0 0 12 12" width="12" height="12" aria-hidden="true">
          {still ? <path d="M3 1.5v9l7-4.5z" /> : <path d="M2 1.5h3v9H2zM7 1.5h3v9H7z" />}
        </svg>
        {still ? words.resume : words.pause}
      </button>
    </div>
  );
}
