// Finding, choosing and ordering devices.

import { useEffect, useRef } from 'preact/hooks';

import { decimal } from '../../format/numbers.ts';
import { texts } from '../../i18n/index.ts';
import { ORDERS, STATES, type Order, type Which } from './select.ts';
import { counts, entries, LAYOUTS, shown, wanted } from './survey.ts';

function want(change: Partial<typeof wanted.value>): void {
  wanted.value = { ...wanted.peek(), ...change };
}

export function showAll(): void {
  want({ which: 'all', text: '' });
}

export function Toolbar() {
  const { overview: words, words: { state: states } } = texts.value;
  const { which, order, text, layout } = wanted.value;
  const find = useRef<HTMLInputElement>(null);
  useEffect(() => {
    const jump = (event: KeyboardEvent) => {
      const at = event.target as HTMLElement;
      if (event.key !== '/' || event.ctrlKey || event.metaKey || event.altKey) return;
      if (at.closest('input:not([type=radio]), textarea, select, [contenteditable]')) return;
      event.preventDefault();
      find.current?.focus();
      find.current?.select();
    };
    addEventListener('keydown', jump);
    return () => removeEventListener('keydown', jump);
  }, []);
  const choices: [Which, string, number][] = [
    ['all', words.all, entries.value.length],
    ...STATES.map((state): [Which, string, number] => [state, states[state], counts.value[state]]),
  ];
  return (
    <div class="toolbar">
      <h2 id="devices-title">{words.title}</h2>
      <fieldset class="choice">
        <legend class="unseen">{words.which}</legend>
        {choices.map(([value, name, count]) => (
          <label key={value} data-none={count === 0 && value !== which ? '' : undefined}>
            <input
              type="radio"
              name="which"
              value={value}
              checked={which === value}
              onChange={() => want({ which: value })}
            />
            <span>{name} <b>{decimal(count, 0)}</b></span>
          </label>
        ))}
      </fieldset>
      <label class="find">
        <span class="unseen">{words.find}</span>
        <input
          id="find"
          ref={find}
          type="search"
          placeholder={words.findHint}
          autocomplete="off"
          spellcheck={false}
          value={text}
          onInput={(event) => want({ text: event.currentTarget.value })}
          onKeyDown={(event) => {
            if (event.key === 'Escape') want({ text: '' });
          }}
        />
      </label>
      <select
        id="order"
        class="order"
        aria-label={words.sort}
        value={order}
        onChange={(event) => want({ order: event.currentTarget.value as Order })}
      >
        {ORDERS.map((name) => <option key={name} value={name}>{words.orders[name]}</option>)}
      </select>
      <fieldset class="choice">
        <legend class="unseen">{words.layout}</legend>
        {LAYOUTS.map((name) => (
          <label key={name}>
            <input
              type="radio"
              name="layout"
              value={name}
              checked={layout === name}
              onChange={() => want({ layout: name })}
            />
            <span>{words.layouts[name]}</span>
          </label>
        ))}
      </fieldset>
      <p class="unseen" role="status">
        {(which !== 'all' || text) && words.shown(shown.value.length, entries.value.length)}
      </p>
    </div>
  );
}
