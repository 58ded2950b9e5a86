// One device: what it sends, what it was told, and how its connection is.

import { useEffect, useMemo, useRef } from 'preact/hooks';

import { texts } from '../../i18n/index.ts';
import { fleet, roster, type Device } from '../../state/fleet.ts';
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
  const present = fleet.get(id);
  // After its own start the gateway knows some devices only once they are back. What was typed for
  // one, and where the focus was, waits for it; what it sent is not shown as long as it is gone.
  const known = useRef<Device>();
  known.current = present ?? known.current;
  const device = known.current;
  const focused = useRef<EventTarget | null>(null);

  const shown = present !== undefined;
  useEffect(() => {
    if (!shown) return;
    const before = focused.current;
    if (before instanceof HTMLElement && before.isConnected) {
      if (document.activeElement === document.body) before.focus({ preventScroll: true });
    } else if (opened !== location.hash) {
      document.getElementById('device-title')?.focus({ preventScroll: true });
    }
    opened = null;
  }, [shown]);

  const back = <a class="back" href={href({ view: 'overview' })}>{words.back}</a>;
  return (
    <section class="device" aria-labelledby={shown ? 'device-title' : 'absent-title'}>
      {!shown && (
        <>
          {back}
          <Absent id={id} before={device !== undefined} />
        </>
      )}
      {device && (
        <div hidden={!shown} onFocusIn={(event) => { focused.current = event.target; }}>
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
        </div>
      )}
    </section>
  );
}

/** `before`: whether it has been there while this view was open. */
function Absent({ id, before }: { id: string; before: boolean }) {
  const words = texts.value.device;
  const waiting = snapshots.value === 0;
  return (
    <>
      <header class="device-head"><h2 id="absent-title" tabIndex={-1}>{id}</h2></header>
      <div class="gone" role="status">
        {waiting ? <p>{connection.value.state === 'lost' ? words.unreachable : words.loading}</p> : (
          <>
            <p><b>{before ? words.forgotten : words.unknown}</b></p>
            <p>{before ? words.forgottenWhy : words.unknownWhy}</p>
          </>
        )}
      </div>
    </>
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
