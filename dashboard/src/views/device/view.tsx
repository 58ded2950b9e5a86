// One device: what it sends, what it was told, and how its connection is.

import { useEffect, useMemo, useRef } from 'preact/hooks';

import { texts } from '../../i18n/index.ts';
import { fleet, roster } from '../../state/fleet.ts';
import { connection, snapshots } from '../../state/gateway.ts';
import { href } from '../../state/router.ts';
import { Commands } from './commands.tsx';
import { ConnectionFacts } from './connection.tsx';
import { useDetail } from './detail.ts';
import { Frame } from './frame.ts';
import { Head } from './head.tsx';
import { Readings } from './readings.tsx';
import './device.css';

/** What the page was opened with: there the focus stays where the browser puts it. */
let opened: string | null = location.hash;

export function DeviceView({ id }: { id: string }) {
  const words = texts.value.device;
  const frame = useMemo(() => new Frame(), []);
  const detail = useDetail(id).value;
  // Whether it comes or goes.
  void roster.value;
  const device = fleet.get(id);
  const seen = useRef(false);
  if (device) seen.current = true;

  const shown = device !== undefined;
  useEffect(() => {
    if (!shown) return;
    if (opened !== location.hash) document.getElementById('device-title')?.focus({ preventScroll: true });
    opened = null;
  }, [shown]);

  const back = <a class="back" href={href({ view: 'overview' })}>{words.back}</a>;
  if (!device) {
    const waiting = snapshots.value === 0;
    return (
      <section class="device" aria-labelledby="device-title">
        {back}
        <header class="device-head"><h2 id="device-title" tabIndex={-1}>{id}</h2></header>
        <div class="gone" role="status">
          {waiting ? <p>{connection.value.state === 'lost' ? words.unreachable : words.loading}</p> : (
            <>
              <p><b>{seen.current ? words.forgotten : words.unknown}</b></p>
              <p>{seen.current ? words.forgottenWhy : words.unknownWhy}</p>
            </>
          )}
        </div>
      </section>
    );
  }
  return (
    <section class="device" aria-labelledby="device-title">
      <div class="ways">
        {back}
        <nav class="jumps" aria-label={words.parts}>
          <Jump to="readings-title">{words.readings}</Jump>
          <Jump to="commands-title">{words.commands.title}</Jump>
          <Jump to="connection-title">{words.connection.title}</Jump>
        </nav>
      </div>
      <Head device={device} />
      <div class="columns">
        <Readings device={device} frame={frame} />
        <div class="side">
          <Commands device={device} />
          <ConnectionFacts detail={detail === 'unknown' ? null : detail} />
        </div>
      </div>
    </section>
  );
}

// The address behind # names the view, so these are no links.
function Jump({ to, children }: { to: string; children: string }) {
  const go = () => {
    const title = document.getElementById(to);
    title?.scrollIntoView({ block: 'start' });
    title?.focus({ preventScroll: true });
  };
  return <button type="button" class="plain" onClick={go}>{children}</button>;
}
