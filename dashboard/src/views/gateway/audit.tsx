// Who signed in, commanded, changed who gets in, or was refused: for admins.

import { useComputed, useSignal } from '@preact/signals';

import { ApiError, get } from '../../api/rest.ts';
import type { AuditEntry } from '../../api/types.ts';
import { moment, utc } from '../../format/times.ts';
import { locale, texts } from '../../i18n/index.ts';
import { Find } from '../../parts/find.tsx';
import { useAsking } from '../../state/asking.ts';
import { gatewayTime } from '../../state/clock.ts';
import { connection } from '../../state/gateway.ts';
import './audit.css';

const EVERY = 5000;
const FEW = 100;
/** The most that the gateway gives. */
const MANY = 1000;

/** What needs no look: the others stand out. */
const USUAL = new Set(['ok', 'queued', 'done', 'delivered']);

export function Audit() {
  const words = texts.value.gateway.audit;
  const limit = useSignal(FEW);
  const find = useSignal('');
  const fault = useSignal<string | null>(null);
  const entries = useAudit(limit.value, fault);
  const shown = useComputed(() => {
    const sought = find.value.trim().toLowerCase();
    const all = (entries.value ?? []).toReversed();
    return sought ? all.filter((entry) => Object.values(entry).join(' ').toLowerCase().includes(sought)) : all;
  });
  const known = entries.value;
  return (
    <section class="panel audit" aria-labelledby="audit-title">
      <div class="tools">
        <h3 id="audit-title">{words.title}</h3>
        <span class="note">{words.newest(shown.value.length)}</span>
        <Find name={words.find} sought={find} />
      </div>
      {fault.value !== null && <p class="none" role="status">{words.fault(fault.value)}</p>}
      {known !== null && shown.value.length === 0 && <p class="none">{find.value ? words.noneFound : words.none}</p>}
      {shown.value.length > 0 && (
        <div class="table" tabIndex={0} role="group" aria-labelledby="audit-title">
          <table>
            <thead>
              <tr>
                <th scope="col">{words.time}</th>
                <th scope="col">{words.who}</th>
                <th scope="col">{words.event}</th>
                <th scope="col">{words.what}</th>
                <th scope="col">{words.outcome}</th>
                <th scope="col">{words.from}</th>
              </tr>
            </thead>
            <tbody>{shown.value.map((entry) => <Row key={keyOf(entry)} entry={entry} />)}</tbody>
          </table>
        </div>
      )}
      {known !== null && limit.value < MANY && known.length >= limit.value && (
        <button
          type="button"
          class="more"
          onClick={() => {
            limit.value = MANY;
          }}
        >
          {words.more(MANY)}
        </button>
      )}
    </section>
  );
}

function Row({ entry }: { entry: AuditEntry }) {
  const { gateway: { audit: words }, shell } = texts.value;
  const role = entry.role && (shell.role as Record<string, string>)[entry.role];
  return (
    <tr data-event={entry.event} data-unusual={!USUAL.has(entry.outcome)}>
      <td>
        <time dateTime={new Date(entry.time * 1000).toISOString()} title={utc(entry.time)}>
          {moment(entry.time, gatewayTime(), locale.value)}
        </time>
      </td>
      <td>{entry.who ?? words.nobody}{role && <small> {role}</small>}</td>
      <td>{words.events[entry.event] ?? entry.event}</td>
      <td class="what">{entry.what ?? ''}</td>
      <td class="outcome">{words.outcomes[entry.outcome] ?? entry.outcome}</td>
      <td>{entry.from === 'command line' ? words.commandLine : entry.from ?? ''}</td>
    </tr>
  );
}

const keyOf = ({ time, event, who, what, outcome }: AuditEntry) => [time, event, who, what, outcome].join('\n');

/** Keeps asking for as long as somebody looks. Null until there is an answer. */
function useAudit(limit: number, fault: { value: string | null }) {
  const entries = useSignal<readonly AuditEntry[] | null>(null);
  useAsking(async (signal) => {
    if (connection.peek().state !== 'live') return;
    try {
      const answer = await get<{ entries: AuditEntry[] }>(`/api/v1/audit?limit=${limit}`, signal);
      fault.value = null;
      entries.value = answer.entries;
    } catch (error) {
      // Whether the gateway is away, or who asks is signed out, is said elsewhere.
      if (error instanceof ApiError && ![0, 401].includes(error.status)) fault.value = error.message;
    }
  }, EVERY, [limit]);
  return entries;
}
