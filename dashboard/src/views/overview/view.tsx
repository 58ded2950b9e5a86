// All devices at a glance, below the state of the gateway.

import { roster } from '../../state/fleet.ts';
import { snapshots } from '../../state/gateway.ts';
import { Empty, Grid } from './grid.tsx';
import { Strip } from './strip.tsx';
import { shown } from './survey.ts';
import { showAll, Toolbar } from './toolbar.tsx';
import './overview.css';

export function Overview() {
  const empty = shown.value.length === 0;
  return (
    <div class="overview">
      <Strip />
      <section aria-labelledby="devices-title">
        <Toolbar />
        {empty ? snapshots.value > 0 && <Empty any={roster.value.length > 0} onAll={showAll} /> : <Grid />}
      </section>
    </div>
  );
}
