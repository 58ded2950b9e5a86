// The newest value of every reading, small, each leading to its chart.

import { useSignal } from '@preact/signals';

import { texts } from '../../i18n/index.ts';
import { Age } from '../../parts/age.tsx';
import type { Device } from '../../state/fleet.ts';
import { knownAt } from '../../state/known.ts';
import { sortedNames } from './readings.tsx';
import { Value } from './value.tsx';

/** More are shown when asked for. */
const FEW = 12;

export function LatestValues({ device }: { device: Device }) {
  const words = texts.value.device;
  const all = useSignal(false);
  void device.version.value;
  const names = sortedNames(device);
  if (names.length === 0) return null;
  const shown = all.value ? names : names.slice(0, FEW);
  const state = device.stateAt(knownAt.value);
  return (
    <div class="latest" data-old={state !== 'online'}>
      <dl aria-label={words.latest}>
        {shown.map((name) => (
          <div key={name} class="tile">
            <dt title={name}>{name}</dt>
            <dd class="came"><Age at={device.readings.get(name)?.t ?? 0} /></dd>
            <dd class="is"><Value device={device} name={name} /></dd>
          </div>
        ))}
      </dl>
      {names.length > FEW && (
        <button type="button" class="plain" aria-expanded={all.value} onClick={() => { all.value = !all.value; }}>
          {all.value ? words.less : words.all(names.length)}
        </button>
      )}
    </div>
  );
}
