// What has a bound, the nearest to its bound first.

import type { Limit } from '../../api/types.ts';
import { bytes, decimal } from '../../format/numbers.ts';
import { texts } from '../../i18n/index.ts';
import { Quantity } from './quantity.tsx';

const NEAR = 0.8;
// At its bound whenever there is enough to do: the broker sets the pace. No reason to warn.
const NORMALLY_FULL = 'mqtt.max_inflight';

export function Limits({ limits }: { limits: Limit[] }) {
  const words = texts.value.gateway;
  const sorted = limits.map((limit) => ({ ...limit, share: limit.limit > 0 ? limit.used / limit.limit : 0 }))
    .sort((a, b) => b.share - a.share);
  return (
    <section class="panel" aria-labelledby="limits-title">
      <h3 id="limits-title">{words.limits}</h3>
      <p class="note">{words.limitsNote}</p>
      <dl>
        {sorted.map(({ name, used, limit, unit, setting, share }) => {
          const shown = (value: number) => (unit === 'bytes' ? bytes(value) : decimal(value, 0));
          const warn = share >= NEAR && setting !== NORMALLY_FULL;
          return (
            <Quantity
              key={name}
              name={words.limit[name] ?? name}
              share={share}
              warn={warn}
              note={`${setting ?? words.fixed}${warn ? ` · ${words.near}` : ''}`}
            >
              {words.used(shown(used), shown(limit))}
            </Quantity>
          );
        })}
      </dl>
    </section>
  );
}
