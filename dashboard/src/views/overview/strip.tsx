// The state of the gateway: quiet when all is well, a sentence when not, and the figures below it.

import { useSignalEffect } from '@preact/signals';
import { useRef, useState } from 'preact/hooks';
import type { ComponentChildren } from 'preact';

import type { Status } from '../../api/types.ts';
import { bytes, decimal, rate } from '../../format/numbers.ts';
import { span, utc } from '../../format/times.ts';
import { texts } from '../../i18n/index.ts';
import { Meter } from '../../parts/meter.tsx';
import { Sparkline } from '../../parts/sparkline.tsx';
import { knownAt } from '../../state/known.ts';
import { connection, status } from '../../state/gateway.ts';
import { rates, trouble, WATCHED } from './recent.ts';
import { findings, outlook, type Finding } from './summary.ts';
import { counts, entries } from './survey.ts';

function said(now: Status): Finding[] {
  const ids = (state: string) => entries.value.filter((entry) => entry.state === state).map(({ id }) => id);
  const seen = { now: knownAt.value, ...trouble.value, stale: ids('stale'), offline: ids('offline') };
  return findings(now, seen, texts.value.overview.summary, texts.value.words.span);
}

export function Strip() {
  const now = status.value;
  const { overview: words } = texts.value;
  const lost = connection.value.state === 'lost';
  const found = now ? said(now) : [];
  const first = found[0];
  return (
    <section class="strip" data-level={first?.level ?? 'unknown'} aria-label={words.strip}>
      <Announcement />
      <div class="sentences">
        <p id="summary" class="summary">
          {first ? (lost ? words.lastKnown(first.text) : first.text) : words.waiting}
        </p>
        {found.length > 1 && (
          <ul class="besides">
            {found.slice(1).map(({ kind, level, text }) => <li key={kind} data-level={level}>{text}</li>)}
          </ul>
        )}
      </div>
      <Figures now={now} />
    </section>
  );
}

/** Read out when something new is to be said, not with each figure that moves. */
function Announcement() {
  const [text, setText] = useState('');
  const meaning = useRef('');
  useSignalEffect(() => {
    const now = status.value;
    if (!now || connection.value.state === 'lost') return;
    const found = said(now);
    const means = found.map(({ kind, level }) => kind + level).join();
    if (means === meaning.current) return;
    meaning.current = means;
    setText(found.map((finding) => finding.text).join(' '));
  });
  return <p class="unseen" role="status">{text}</p>;
}

function Figures({ now }: { now: Status | null }) {
  const { overview: { figures: words }, words: { span: spans, state: states } } = texts.value;
  if (!now) {
    return (
      <dl class="figures">
        {[words.broker, words.buffer, words.rates, words.lost, words.devices].map((name) =>
          <Figure key={name} name={name} value="–" />)}
      </dl>
    );
  }
  const { uplink, spool, devices } = now;
  const share = spool.max_bytes > 0 ? Math.min(100, 100 * spool.bytes / spool.max_bytes) : 0;
  const { in: incoming, out } = now.rates ?? { in: null, out: null };
  const { stale, offline, never } = counts.value;
  const rejected = now.rejected_batches;
  const others = ([['stale', stale], ['offline', offline], ['never', never]] as const)
    .filter(([, count]) => count > 0)
    .map(([state, count]) => `${decimal(count, 0)} ${states[state].toLowerCase()}`);
  return (
    <dl class="figures">
      <Figure
        name={words.broker}
        id="uplink"
        value={words.uplink[uplink.state]}
        warn={uplink.state !== 'connected'}
        notes={[uplink.since > 0 && (
          <span title={utc(uplink.since)}>{words.lasting(span(knownAt.value - uplink.since, spans))}</span>
        )]}
      />
      <Figure
        name={words.buffer}
        id="buffer"
        value={spool.batches ? words.batches(spool.batches) : words.empty}
        warn={share >= 80 || Boolean(spool.fault)}
        notes={[
          words.share(bytes(spool.bytes), bytes(spool.max_bytes))
            + (spool.oldest_age_s === null ? '' : `, ${words.oldest(span(spool.oldest_age_s, spans))}`),
          ...outlook(now, words, spans),
        ]}
      >
        <dd class="gauge"><Meter label={words.filled} share={share / 100} warn={share >= 80} /></dd>
      </Figure>
      <Figure
        name={words.rates}
        id="rates"
        value={incoming === null || out === null ? '–' : (
          <span class="two">
            <span>{rate(incoming)} <small>{words.in}</small></span>
            <span>{rate(out)} <small>{words.out}</small></span>
          </span>
        )}
      >
        <dd class="flow"><Flow /></dd>
      </Figure>
      <Figure
        name={words.lost}
        id="lost"
        value={spool.lost_readings ? decimal(spool.lost_readings, 0) : words.none}
        warn={spool.lost_readings > 0}
        notes={[
          words.sinceStart,
          rejected !== undefined && (
            <span class={trouble.value.rejected > 0 ? 'warn' : ''}>
              {words.rejects}: <b>{rejected ? decimal(rejected, 0) : words.none}</b>
            </span>
          ),
          now.sequence_gaps ? words.gaps(now.sequence_gaps) : null,
        ]}
      />
      <Figure
        name={words.devices}
        id="online"
        value={decimal(devices.connected, 0)}
        notes={[words.of(devices.known), others.join(', ')]}
      />
    </dl>
  );
}

function Flow() {
  const lines = rates.value;
  const to = lines.in.at(-1)?.[0] ?? 0;
  return (
    <Sparkline
      lines={[{ samples: lines.in }, { samples: lines.out, faint: true }]}
      from={Math.max(to - WATCHED, Math.min(to - 60, lines.in[0]?.[0] ?? to))}
      to={to}
      gap={5}
      base={0}
    />
  );
}

interface FigureProps {
  name: string;
  id?: string;
  value: ComponentChildren;
  warn?: boolean;
  notes?: ComponentChildren[];
  children?: ComponentChildren;
}

function Figure({ name, id, value, warn, notes = [], children }: FigureProps) {
  return (
    <div>
      <dt>{name}</dt>
      <dd id={id} class={warn ? 'figure warn' : 'figure'}>{value}</dd>
      {children}
      {notes.filter(Boolean).map((note, index) => <dd key={index} class="note">{note}</dd>)}
    </div>
  );
}
