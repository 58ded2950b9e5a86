// One command: its state at a glance, and everything that is known of it when opened.

import type { Command } from '../../api/types.ts';
import { texts } from '../../i18n/index.ts';
import { Moment } from '../../parts/moment.tsx';

export function CommandEntry({ command }: { command: Command }) {
  const words = texts.value.device.commands;
  const { name, params, state, value, error, requester, history = [], expires, sent, redeliver } = command;
  return (
    <li class="entry">
      <details>
        <summary>
          <span class="command-name">{name}</span>
          <CommandBadge state={state} />
          <span class="quiet"><Moment at={command.accepted ?? command.time} /></span>
          {error && <span class="brief">{error}</span>}
        </summary>
        <ol class="steps" aria-label={words.steps}>
          {history.map((step, index) => (
            <li key={index}>
              <CommandBadge state={step.state} />
              <span class="quiet"><Moment at={step.time} />{step.late && ` (${words.late})`}</span>
            </li>
          ))}
        </ol>
        <dl class="facts">
          {params !== null && params !== undefined && (
            <div class="wide"><dt>{words.params}</dt><dd><Json value={params} /></dd></div>
          )}
          {value !== null && value !== undefined && (
            <div class="wide"><dt>{words.value}</dt><dd><Json value={value} /></dd></div>
          )}
          {error && <div class="wide"><dt>{words.error}</dt><dd>{error}</dd></div>}
          {requester && (
            <div><dt>{words.who}</dt><dd>{[words.via(requester.via), requester.name].filter(Boolean).join(', ')}</dd></div>
          )}
          {expires !== undefined && <div><dt>{words.expires}</dt><dd><Moment at={expires} /></dd></div>}
          {sent !== undefined && <div><dt>{words.sentTimes}</dt><dd>{sent}</dd></div>}
          {redeliver !== undefined && (
            <div>
              <dt>{words.redeliverShort}</dt>
              <dd>{redeliver ? texts.value.words.yes : texts.value.words.no}</dd>
            </div>
          )}
          <div class="wide"><dt>{words.id}</dt><dd><code>{command.id}</code></dd></div>
        </dl>
      </details>
    </li>
  );
}

export function CommandBadge({ state }: { state: Command['state'] }) {
  return <span class="command-state" data-command={state}>{texts.value.device.commands.state[state] ?? state}</span>;
}

function Json({ value }: { value: unknown }) {
  const short = JSON.stringify(value);
  return <code>{short.length > 60 ? JSON.stringify(value, null, 2) : short}</code>;
}
