// The gateway's clock, as far as this page can tell. Ages are counted on it, so that a wrong clock
// on this side makes no value look older or newer than it is.

import { signal } from '@preact/signals';

let offset = 0;
let known = false;

/** The gateway said what time it is. */
export function setClock(time: number): void {
  const seen = time - Date.now() / 1000;
  // A message on its way ages: the least delayed one tells best. A jump is a clock set anew.
  const jump = Math.abs(seen - offset) > 2;
  offset = !known || jump ? seen : Math.max(seen, offset - 0.005);
  known = true;
  second.value = Math.floor(gatewayTime());
}

/** Unix seconds on the gateway's clock. */
export function gatewayTime(): number {
  return Date.now() / 1000 + offset;
}

/** The same in whole seconds, changing once a second: what shows an age reads this. */
export const second = signal(Math.floor(gatewayTime()));

setInterval(() => {
  second.value = Math.floor(gatewayTime());
}, 1000);
