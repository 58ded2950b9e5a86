// A reading with its latest value and its chart, which is made only while it can be seen.

import { useSignal } from '@preact/signals';
import { useEffect, useRef } from 'preact/hooks';

import { Age } from '../../parts/age.tsx';
import type { Device } from '../../state/fleet.ts';
import { Chart } from './chart.tsx';
import type { Frame } from './frame.ts';
import { Timeline } from './timeline.tsx';
import { Value } from './value.tsx';

/** Charts a little outside of what is seen are made already. */
const AHEAD = '300px 0px';

export type Kind = 'number' | 'state';

/** What a reading is drawn as; null: not at all. */
export function kindOf(device: Device, name: string): Kind | null {
  const reading = device.readings.get(name);
  if (reading?.v !== undefined || reading?.s !== undefined) return 'number';
  return reading?.vb !== undefined || reading?.vs !== undefined ? 'state' : null;
}

interface Props {
  device: Device;
  name: string;
  kind: Kind;
  frame: Frame;
}

export function ReadingCard({ device, name, kind, frame }: Props) {
  const seen = useSignal(false);
  const element = useRef<HTMLElement>(null);
  useEffect(() => {
    const observer = new IntersectionObserver((entries) => {
      seen.value = entries.at(-1)?.isIntersecting ?? false;
    }, { rootMargin: AHEAD });
    if (element.current) observer.observe(element.current);
    return () => observer.disconnect();
  }, []);
  return (
    <article ref={element} class="reading" data-kind={kind} aria-label={name}>
      <header>
        <h4>{name}</h4>
        {seen.value && <Value device={device} name={name} />}
        {seen.value && <Latest device={device} name={name} />}
      </header>
      {!seen.value ? <div class="later" />
        : kind === 'number'
          ? <Chart device={device.id} name={name} unit={device.readings.get(name)?.u} frame={frame} />
          : <Timeline device={device.id} name={name} frame={frame} />}
    </article>
  );
}

function Latest({ device, name }: { device: Device; name: string }) {
  void device.version.value;
  const reading = device.readings.get(name);
  return reading ? <Age at={reading.t} /> : null;
}
