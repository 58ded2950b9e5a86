// A line for the views that do not show the buffer: the broker is away, or gets what was kept.

import { bytes } from '../format/numbers.ts';
import { span } from '../format/times.ts';
import { texts } from '../i18n/index.ts';
import { gatewayTime, second } from '../state/clock.ts';
import { status } from '../state/gateway.ts';

export function UplinkNotice() {
  const now = status.value;
  if (!now) return null;
  void second.value;
  const words = texts.value.shell;
  const { uplink, spool } = now;
  const time = (seconds: number) => span(seconds, texts.value.words.span);
  if (uplink.state === 'connected' && spool.batches === 0) return null;
  const parts = uplink.state === 'connected'
    ? [words.draining(bytes(spool.bytes)), spool.drained_in_s !== null && words.drainedIn(time(Math.max(1, spool.drained_in_s)))]
    : [
        words.brokerAway(time(gatewayTime() - uplink.since), uplink.last_error),
        words.buffered(bytes(spool.bytes)),
        spool.full_in_s !== null && words.fullIn(time(spool.full_in_s)),
      ];
  return (
    <p class="uplink" data-away={uplink.state !== 'connected'}>{parts.filter(Boolean).join(' ')}</p>
  );
}
