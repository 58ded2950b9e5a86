// One line of a panel: what it is, how much, and a bar where it has an end.

import type { ComponentChildren } from 'preact';

import { Meter } from '../../parts/meter.tsx';

interface Props {
  name: string;
  note?: string | undefined;
  /** 0 to 1, where there is an end. */
  share?: number | undefined;
  warn?: boolean;
  children: ComponentChildren;
}

export function Quantity({ name, note, share, warn = false, children }: Props) {
  return (
    <div class={warn ? 'quantity warn' : 'quantity'}>
      <dt>{name}</dt>
      <dd>{children}</dd>
      {share !== undefined && <dd class="filled"><Meter label={name} share={share} warn={warn} /></dd>}
      {note && <dd class="note">{note}</dd>}
    </div>
  );
}
