// The machine that the gateway runs on.

import type { About } from '../../api/types.ts';
import { bytes, decimal } from '../../format/numbers.ts';
import { span } from '../../format/times.ts';
import { texts } from '../../i18n/index.ts';
import { Quantity } from './quantity.tsx';

// From here on somebody should look: a share of what there is, and degrees that small boards
// slow down at.
const NEAR = 0.8;
const HOT = 75;
// What the temperature's bar ends at.
const HOTTEST = 100;

export function Machine({ machine }: { machine: About['machine'] }) {
  const words = texts.value.gateway;
  const { load, cpus, memory, disk, temperatures, uptime_s: up } = machine;
  const hottest = temperatures.reduce<number | null>((most, { celsius }) => Math.max(most ?? celsius, celsius), null);
  const loaded = load && cpus ? load[0] / cpus : undefined;
  const memoryUsed = memory ? memory.total_bytes - memory.available_bytes : 0;
  const diskUsed = disk ? disk.total_bytes - disk.free_bytes : 0;
  const memoryShare = memory ? memoryUsed / memory.total_bytes : undefined;
  const diskShare = disk ? diskUsed / disk.total_bytes : undefined;
  return (
    <section class="panel" aria-labelledby="machine-title">
      <h3 id="machine-title">{words.machine}</h3>
      <dl>
        <Quantity name={words.load} share={loaded} warn={(loaded ?? 0) > 1} note={cpus ? words.loadNote(cpus) : undefined}>
          {load ? load.map((value) => decimal(value, 2)).join(' · ') : words.unknown}
        </Quantity>
        <Quantity
          name={words.memory}
          share={memoryShare}
          warn={(memoryShare ?? 0) >= NEAR}
          note={memory ? words.available(bytes(memory.available_bytes)) : undefined}
        >
          {memory ? words.used(bytes(memoryUsed), bytes(memory.total_bytes)) : words.unknown}
        </Quantity>
        <Quantity
          name={words.disk}
          share={diskShare}
          warn={(diskShare ?? 0) >= NEAR}
          note={disk ? `${words.free(bytes(disk.free_bytes))} · ${disk.path}` : undefined}
        >
          {disk ? words.used(bytes(diskUsed), bytes(disk.total_bytes)) : words.unknown}
        </Quantity>
        <Quantity
          name={words.temperature}
          share={hottest === null ? undefined : hottest / HOTTEST}
          warn={(hottest ?? 0) >= HOT}
          note={temperatures.length > 1
            ? temperatures.slice(0, 6).map(({ name, celsius }) => `${name} ${decimal(celsius, 1)} °C`).join(' · ')
            : temperatures[0]?.name}
        >
          {hottest === null ? <span class="quiet">{words.noTemperature}</span> : `${decimal(hottest, 1)} °C`}
        </Quantity>
        {up !== null && <Quantity name={words.machineUp}>{span(up, texts.value.words.span)}</Quantity>}
      </dl>
    </section>
  );
}
