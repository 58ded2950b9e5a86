// Where readings are pushed to, besides the broker.

import type { Push as Target } from '../../api/types.ts';
import { decimal } from '../../format/numbers.ts';
import { texts } from '../../i18n/index.ts';
import { Quantity } from './quantity.tsx';

export function Push({ targets }: { targets: Target[] }) {
  if (targets.length === 0) return null;
  const words = texts.value.gateway;
  return (
    <section class="panel" aria-labelledby="push-title">
      <h3 id="push-title">{words.push}</h3>
      <dl>
        {targets.map((target) => (
          <Quantity
            key={target.name}
            name={target.name}
            warn={target.state === 'retrying'}
            note={[
              words.pushFigures(
                decimal(target.sent_readings, 0),
                decimal(target.queued_readings, 0),
                decimal(target.dropped_readings, 0),
              ),
              target.last_error,
              target.url,
            ].filter(Boolean).join(' · ')}
          >
            {words.pushState[target.state]}
          </Quantity>
        ))}
      </dl>
    </section>
  );
}
