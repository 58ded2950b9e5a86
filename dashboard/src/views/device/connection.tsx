// The facts of a device's connection, and what of it was refused.

import type { ComponentChildren } from 'preact';

import { decimal, figure } from '../../format/numbers.ts';
import { texts } from '../../i18n/index.ts';
import { Moment } from '../../parts/moment.tsx';
import type { DeviceDetail, Refusal } from '../../api/types.ts';

export function ConnectionFacts({ detail }: { detail: DeviceDetail | null }) {
  const words = texts.value.device.connection;
  const facts = detail?.connection;
  const trip = facts?.round_trip_s;
  return (
    <section class="panel" aria-labelledby="connection-title">
      <h3 id="connection-title" tabIndex={-1}>{words.title}</h3>
      <dl class="facts">
        <Fact name={words.address} value={detail?.address} />
        <Fact
          name={detail?.connected === false ? words.awaySince : words.since}
          value={typeof detail?.since === 'number' ? <Moment at={detail.since} /> : null}
        />
        <Fact name={words.roundTrip} value={typeof trip === 'number' ? milliseconds(trip) : null} />
        <Fact
          name={words.interval}
          value={typeof detail?.interval_s === 'number' ? `${figure(detail.interval_s)}\u00a0s` : null}
        />
        <Fact name={words.position} value={position(facts)} />
        <Fact name={words.batches} value={count(facts?.batches)} />
        <Fact name={words.readings} value={count(facts?.readings)} />
        <Fact name={words.gaps} value={count(facts?.gaps)} warn={(facts?.gaps ?? 0) > 0} />
        <Fact name={words.duplicates} value={count(facts?.duplicates)} />
        <Fact name={words.rejected} value={count(facts?.rejected)} warn={(facts?.rejected ?? 0) > 0} />
      </dl>
      {facts && <p class="note">{words.counted}</p>}
      <Refusals refusals={detail?.refusals ?? []} />
    </section>
  );
}

function Fact({ name, value, warn }: { name: string; value: ComponentChildren; warn?: boolean }) {
  return (
    <div>
      <dt>{name}</dt>
      <dd class={warn ? 'warn' : undefined}>{value ?? '–'}</dd>
    </div>
  );
}

function Refusals({ refusals }: { refusals: Refusal[] }) {
  const words = texts.value.device.connection;
  if (refusals.length === 0) return null;
  return (
    <>
      <h4 id="refusals-title">{words.refusals}</h4>
      <ul class="refusals" aria-labelledby="refusals-title">
        {refusals.map(({ time, kind, code, reason, count: times }) => (
          <li key={`${kind} ${code} ${reason}`}>
            <p>{reason}</p>
            <p class="quiet">
              <Moment at={time} /> · {words.kind[kind] ?? kind}, {words.code(code)}
              {times > 1 && ` · ${words.times(decimal(times, 0))}`}
            </p>
          </li>
        ))}
      </ul>
    </>
  );
}

function count(value: number | undefined): string | null {
  return value === undefined ? null : decimal(value, 0);
}

function milliseconds(seconds: number): string {
  const ms = seconds * 1000;
  return `${decimal(ms, ms < 10 ? 1 : 0)}\u00a0ms`;
}

function position(facts: DeviceDetail['connection']): string | null {
  if (typeof facts?.seq !== 'number') return null;
  return typeof facts.epoch === 'number' ? `${facts.epoch}\u2009/\u2009${facts.seq}` : String(facts.seq);
}
