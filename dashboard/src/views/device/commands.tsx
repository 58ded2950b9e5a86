// What the device was told, and a form to tell it more.

import { useSignal, useSignalEffect } from '@preact/signals';

import { ApiError, get } from '../../api/rest.ts';
import type { Command } from '../../api/types.ts';
import { texts } from '../../i18n/index.ts';
import type { Device } from '../../state/fleet.ts';
import { snapshots } from '../../state/gateway.ts';
import { lastCommand, mergeCommands } from '../../state/commands.ts';
import { mayOperate } from '../../state/session.ts';
import { CommandEntry } from './command-entry.tsx';
import { CommandForm } from './command-form.tsx';
import './commands.css';

const LISTED = 20;

export function Commands({ device }: { device: Device }) {
  const words = texts.value.device.commands;
  const list = useSignal<readonly Command[] | null>(null);
  const fault = useSignal<string | null>(null);
  /** The one that was sent from here last. */
  const own = useSignal<string | null>(null);

  const take = (records: readonly Command[]) => {
    list.value = mergeCommands(list.peek() ?? [], records, LISTED);
  };
  useSignalEffect(() => {
    if (snapshots.value === 0) return undefined;
    const stop = new AbortController();
    const query = new URLSearchParams({ device: device.id, limit: String(LISTED) });
    get<Command[] | { commands: Command[] }>(`/api/v1/commands?${query}`, stop.signal).then(
      (answer) => {
        fault.value = null;
        take(Array.isArray(answer) ? answer : answer.commands);
      },
      (error: unknown) => {
        if (!stop.signal.aborted && error instanceof ApiError) fault.value = error.message;
      },
    );
    return () => stop.abort();
  });
  useSignalEffect(() => {
    const command = lastCommand.value;
    if (command?.device === device.id) take([command]);
  });

  const sent = list.value?.find(({ id }) => id === own.value);
  return (
    <section class="panel commands" aria-labelledby="commands-title">
      <h3 id="commands-title" tabIndex={-1}>{words.title}</h3>
      {mayOperate.value ? (
        <CommandForm
          device={device}
          sent={sent}
          onSent={(record) => {
            own.value = record.id;
            take([record]);
          }}
        />
      ) : <p class="note">{texts.value.shell.mayNotCommand}</p>}
      <h4 id="history-title">{words.history}</h4>
      {fault.value && <p class="note bad">{words.listFault(fault.value)}</p>}
      {list.value?.length === 0 && <p class="note">{words.none}</p>}
      <ul class="entries" aria-labelledby="history-title">
        {(list.value ?? []).map((command) => <CommandEntry key={command.id} command={command} />)}
      </ul>
    </section>
  );
}
