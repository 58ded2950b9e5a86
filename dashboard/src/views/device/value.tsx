// The latest value of a reading, with as many decimals as it had before.

import { useRef } from 'preact/hooks';

import { shownReading } from '../../format/numbers.ts';
import { texts } from '../../i18n/index.ts';
import type { Device } from '../../state/fleet.ts';

export function Value({ device, name }: { device: Device; name: string }) {
  const decimals = useRef(0);
  void device.version.value;
  const reading = device.readings.get(name);
  if (!reading) return null;
  const shown = shownReading(reading, texts.value.words, decimals.current);
  decimals.current = shown.decimals;
  return (
    <span class={shown.words ? 'value words' : 'value'} title={shown.words ? shown.text : undefined}>
      {shown.text}{shown.unit && <span class="unit">{shown.unit}</span>}
    </span>
  );
}
