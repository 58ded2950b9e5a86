// Sends a command, and says what becomes of it.

import { useComputed, useSignal } from '@preact/signals';
import { useRef } from 'preact/hooks';

import { ApiError, devicePath, post } from '../../api/rest.ts';
import type { Command } from '../../api/types.ts';

import { texts } from '../../i18n/index.ts';
import { hasEnded } from '../../state/commands.ts';
import type { Device } from '../../state/fleet.ts';
import { connection } from '../../state/gateway.ts';
import { knownAt } from '../../state/known.ts';
import { CommandBadge } from './command-entry.tsx';
import { checkJson } from './json.ts';
import { clock } from './times.ts';

/** What the gateway takes; see docs/commands.md. */
const TTL_MOST = 604_800;

interface Props {
  device: Device;
  /** The record of what was sent from here last, as it is now. */
  sent: Command | undefined;
  onSent(record: Command): void;
}

export function CommandForm({ device, sent, onSent }: Props) {
  const words = texts.value.device.commands;
  const [name, params, ttl] = [useSignal(''), useSignal(''), useSignal('')];
  const redeliver = useSignal(true);
  const sending = useSignal(false);
  const refused = useSignal<string | null>(null);
  const field = useRef<HTMLTextAreaElement>(null);
  const checked = useComputed(() => (params.value.trim() ? checkJson(params.value) : null));
  void device.version.value;
  const announced = device.facts.commands ?? [];
  const link = connection.value.state;
  const wrong = checked.value && !checked.value.ok ? checked.value : null;

  async function send(event: Event): Promise<void> {
    event.preventDefault();
    if (wrong) {
      field.current?.focus();
      field.current?.setSelectionRange(wrong.offset, wrong.offset + 1);
      return;
    }
    sending.value = true;
    refused.value = null;
    try {
      onSent(await post<Command>(devicePath(device.id, '/commands'), {
        name: name.value.trim(),
        params: checked.value?.ok ? checked.value.value : null,
        redeliver: redeliver.value,
        ...(ttl.value ? { ttl: Number(ttl.value) } : {}),
      }));
    } catch (error) {
      // Without an answer nobody knows whether it was taken: the list tells when it is back.
      if (error instanceof ApiError) refused.value = error.status === 0 ? words.noAnswer : words.refused(error.message);
      else refused.value = String(error);
    } finally {
      sending.value = false;
    }
  }

  const away = link === 'live' && !device.facts.connected;
  return (
    <form class="command-form" onSubmit={send}>
      <label>
        <span>{words.name}</span>
        <input
          name="command"
          list="announced"
          required
          maxLength={64}
          pattern="\S+"
          autocomplete="off"
          autocapitalize="off"
          spellcheck={false}
          value={name.value}
          onInput={(event) => { name.value = event.currentTarget.value; }}
        />
        <datalist id="announced">{announced.map((one) => <option key={one} value={one} />)}</datalist>
      </label>
      {announced.length > 0 && (
        <ul class="announced" aria-label={words.announced}>
          {announced.map((one) => (
            <li key={one}>
              <button type="button" aria-pressed={name.value === one} onClick={() => { name.value = one; }}>{one}</button>
            </li>
          ))}
        </ul>
      )}
      <label>
        <span>{words.paramsJson}</span>
        <textarea
          ref={field}
          rows={Math.min(10, Math.max(2, params.value.split('\n').length))}
          spellcheck={false}
          autocapitalize="off"
          placeholder='{"seconds": 2}'
          aria-invalid={wrong !== null}
          aria-describedby="params-check"
          value={params.value}
          onInput={(event) => { params.value = event.currentTarget.value; }}
        />
      </label>
      <p id="params-check" class={wrong ? 'check bad' : 'check'} aria-live="polite">
        {wrong ? (
          <>
            {words.wrongAt(wrong.line, wrong.column)} {words.wrong[wrong.wrong]}
            <code aria-hidden="true">{marked(params.value, wrong.offset)}</code>
          </>
        ) : checked.value ? words.right : words.paramsHint}
      </p>
      <div class="pair">
        <label>
          <span>{words.ttl}</span>
          <input
            type="number"
            inputMode="numeric"
            min={1}
            max={TTL_MOST}
            step={1}
            placeholder="60"
            value={ttl.value}
            onInput={(event) => { ttl.value = event.currentTarget.value; }}
          />
        </label>
        <label class="tick">
          <input
            type="checkbox"
            checked={redeliver.value}
            aria-describedby="redeliver-hint"
            onChange={(event) => { redeliver.value = event.currentTarget.checked; }}
          />
          <span>{words.redeliver}</span>
        </label>
      </div>
      <p id="redeliver-hint" class="check">{redeliver.value ? words.redeliverOn : words.redeliverOff}</p>
      {away && <p class="note warn">{words.away(ttl.value ? Number(ttl.value) : null)}</p>}
      <button type="submit" class="send" disabled={link !== 'live' || sending.value}>
        {sending.value ? words.sending : words.send}
      </button>
      {link !== 'live' && <p class="check">{words.disabled}</p>}
      <div role="status" class="outcome">
        {refused.value ? <p class="note bad">{refused.value}</p> : sent && <Outcome command={sent} device={device} />}
      </div>
    </form>
  );
}

/** What has become of it so far, in a sentence. */
function Outcome({ command, device }: { command: Command; device: Device }) {
  const words = texts.value.device.commands;
  const left = command.expires === undefined ? null : Math.ceil(command.expires - knownAt.value);
  const until = command.expires === undefined ? '' : clock(command.expires, 1);
  const value = command.value === null || command.value === undefined ? null : JSON.stringify(command.value);
  return (
    <div class="result" data-command={command.state}>
      <p><b>{command.name}</b> <CommandBadge state={command.state} /></p>
      {!hasEnded(command) && left !== null && (
        <p>{command.state === 'delivered' ? words.waitsAnswer(until)
          : device.facts.connected ? words.waitsTurn(until) : words.waitsDevice(until)}</p>
      )}
      {command.error && <p>{command.error}</p>}
      {value && <p><code>{value}</code></p>}
    </div>
  );
}

/** The line that is wrong, up to the place, which is marked. */
function marked(text: string, offset: number): string {
  const start = text.lastIndexOf('\n', offset - 1) + 1;
  const before = text.slice(Math.max(start, offset - 24), offset);
  const after = text.slice(offset, offset + 12).split('\n')[0] ?? '';
  return `${before}▸${after}`;
}
