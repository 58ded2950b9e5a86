// What the gateway's state means, in sentences. Pure.

import type { Status } from '../../api/types.ts';
import { bytes } from '../../format/numbers.ts';
import { span, type SpanWords } from '../../format/times.ts';
import type { overview } from '../../i18n/en/overview.ts';

export type Severity = 'ok' | 'notice' | 'warn' | 'bad';

export interface Finding {
  /** Changes when the meaning does, not when a figure in it does. */
  kind: string;
  level: Severity;
  text: string;
}

/** What the page has seen besides the status. */
export interface Seen {
  /** Unix seconds on the gateway's clock. */
  now: number;
  /** Batches rejected in the last minute. */
  rejected: number;
  /** Readings lost in the last minute. */
  lost: number;
  /** Devices that are connected and send nothing. */
  stale: readonly string[];
  offline: readonly string[];
}

type Words = (typeof overview)['summary'];
type Spool = Status['spool'];

const ORDER: readonly Severity[] = ['bad', 'warn', 'notice', 'ok'];
// Devices that a sentence names before it counts the rest.
const NAMED = 3;

/** What there is to say, worst first; never empty. The first is what matters most. */
export function findings(status: Status, seen: Seen, words: Words, spans: SpanWords): Finding[] {
  const { commands, push = [], devices } = status;
  const found = [delivery(status, seen, words, spans)];
  const add = (kind: string, level: Severity, text: string) => found.push({ kind, level, text });
  if (commands?.fault) add('ledger', 'bad', words.ledger(commands.fault));
  if (seen.rejected > 0) add('rejects', 'warn', words.rejects(seen.rejected));
  for (const { name, state, last_error: why, queued_readings: queued } of push) {
    if (state !== 'ok') add(`push ${name}`, 'warn', words.push(name, why, queued));
  }
  const { stale, offline } = seen;
  if (stale.length > 0) add('silent', 'warn', words.silent(stale.length, stale.slice(0, NAMED)));
  if (commands && commands.damaged > 0) add('damaged', 'notice', words.damaged(commands.damaged));
  // Where no device is connected at all, that is said already.
  if (offline.length > 0 && devices.connected > 0) {
    add('offline', 'notice', words.offline(offline.length, offline.slice(0, NAMED)));
  }
  const wrong = found.filter(({ level }) => level !== 'ok');
  if (wrong.length === 0) return found;
  return wrong.sort((a, b) => ORDER.indexOf(a.level) - ORDER.indexOf(b.level));
}

/** What becomes of the readings. */
function delivery(status: Status, seen: Seen, words: Words, spans: SpanWords): Finding {
  const { uplink, spool, devices } = status;
  const waiting = spool.batches > 0;
  const lost = spool.lost_readings;
  const finding = (kind: string, level: Severity, ...sentences: (string | null)[]): Finding =>
    ({ kind, level, text: sentences.filter((sentence) => sentence !== null).join(' ') });
  const losses = lost > 0 ? words.lost(lost) : null;
  if (spool.fault) return finding('fault', 'bad', words.fault(spool.fault), losses);
  if (uplink.state !== 'connected') {
    if (uplink.state === 'connecting' && !uplink.last_error && !waiting) {
      return finding('connecting', lost > 0 ? 'warn' : 'notice', words.connecting, losses);
    }
    const since = uplink.since > 0 ? span(seen.now - uplink.since, spans) : null;
    return finding(
      'away',
      lost > 0 || spool.full_in_s === 0 ? 'bad' : 'warn',
      words.away(since, uplink.last_error),
      waiting ? words.kept(spool.batches, bytes(spool.bytes)) : words.nothing,
      filled(spool, words, spans),
      losses,
    );
  }
  if (waiting) {
    const left = spool.drained_in_s;
    return finding(
      'draining',
      seen.lost > 0 ? 'bad' : lost > 0 ? 'warn' : 'notice',
      words.draining(spool.batches, bytes(spool.bytes)),
      left === null ? null : words.emptyIn(span(Math.max(1, left), spans)),
      losses,
    );
  }
  if (lost > 0) return finding('lost', seen.lost > 0 ? 'bad' : 'warn', words.arrive(lost));
  if (devices.known === 0) return finding('new', 'ok', words.fresh);
  if (devices.connected === 0) return finding('none', 'notice', words.none);
  return finding('well', 'ok', words.well);
}

/** When the buffer reaches a limit. */
function filled(spool: Spool, words: Words, spans: SpanWords): string | null {
  const { full_in_s: full, lasts_s: lasts, batches } = spool;
  if (full === 0) return words.full;
  if (typeof full === 'number') return words.fullIn(span(full, spans));
  // The age limit comes first.
  return batches > 0 && typeof lasts === 'number' ? words.agedIn(span(lasts, spans)) : null;
}

/** What stands below the buffer's figure: how long it will do, and what the disk had to take. */
export function outlook(
  { uplink, spool }: Pick<Status, 'uplink' | 'spool'>,
  words: (typeof overview)['figures'],
  spans: SpanWords,
): string[] {
  const { full_in_s: full, drained_in_s: drained, lasts_s: lasts, batches } = spool;
  const parts: string[] = [];
  if (uplink.state !== 'connected' && typeof full === 'number' && full > 0) {
    parts.push(words.fullIn(span(full, spans)));
  } else if (uplink.state === 'connected' && batches > 0 && typeof drained === 'number') {
    parts.push(words.emptyIn(span(Math.max(1, drained), spans)));
  } else if (typeof lasts === 'number') {
    parts.push(lasts > 0 ? words.lasts(span(lasts, spans)) : words.full);
  }
  if (typeof spool.disk_written_today_bytes === 'number') {
    parts.push(words.written(bytes(spool.disk_written_today_bytes)));
  }
  return parts;
}
