// A device's state in a word and a mark; the mark's shape tells it too, not its colour alone.

import type { DeviceState } from '../state/fleet.ts';
import { texts } from '../i18n/index.ts';
import { connection } from '../state/gateway.ts';
import './state-badge.css';

/** While the page's connection is lost, it says how the device was. */
export function StateBadge({ state }: { state: DeviceState }) {
  const { words, overview } = texts.value;
  const lost = connection.value.state === 'lost';
  return <span class="state" data-state={state}>{lost ? overview.was(words.state[state]) : words.state[state]}</span>;
}
