// Which device this is, how it is, and what it said last.

import { span } from '../../format/times.ts';
import { texts } from '../../i18n/index.ts';
import { Age } from '../../parts/age.tsx';
import { Moment } from '../../parts/moment.tsx';
import { StateBadge } from '../../parts/state-badge.tsx';
import type { Device } from '../../state/fleet.ts';
import { knownAt } from '../../state/known.ts';
import { LatestValues } from './latest.tsx';

export function Head({ device }: { device: Device }) {
  const words = texts.value.device;
  void device.version.value;
  const { facts } = device;
  const now = knownAt.value;
  const state = device.stateAt(now);
  const about = [facts.model, facts.firmware].filter(Boolean).join(' · ');
  return (
    <header class="device-head">
      <div class="device-name">
        <h2 id="device-title" tabIndex={-1}>{device.id}</h2>
        <StateBadge state={state} />
      </div>
      {about && <p class="about">{about}</p>}
      <p class="seen">
        {facts.since === null ? words.neverSeen : (
          <>
            <span>
              {facts.connected ? words.connectedFor(span(now - facts.since, texts.value.words.span))
                : words.awayFor(span(now - facts.since, texts.value.words.span))}
              <span class="quiet"> ({words.since} <Moment at={facts.since} />)</span>
            </span>
            {facts.last_seen !== null && (
              <span class="last-seen">{words.lastSeen} <Age at={facts.last_seen} /></span>
            )}
            {facts.address && <span class="address">{words.address} <b>{facts.address}</b></span>}
          </>
        )}
      </p>
      {facts.incomplete && <p class="note warn">{words.incomplete}</p>}
      <LatestValues device={device} />
    </header>
  );
}
