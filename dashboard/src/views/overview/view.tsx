// All devices at a glance.

import { texts } from '../../i18n/index.ts';
import { fleet, roster } from '../../state/fleet.ts';
import { href } from '../../state/router.ts';
import './overview.css';

export function Overview() {
  return (
    <section aria-labelledby="devices-title">
      <h2 id="devices-title">{texts.value.overview.title}</h2>
      <ul>
        {roster.value.map((id) => (
          <li key={id}><a href={href({ view: 'device', id })}>{fleet.get(id)?.id}</a></li>
        ))}
      </ul>
    </section>
  );
}
