// The keys with which a chart or a timeline is read.

import type { Frame } from './frame.ts';

/** Goes among `times` (sorted), zooms or pauses, if the key says so. */
export function readWithKeys(event: KeyboardEvent, frame: Frame, name: string, times: readonly number[]): void {
  // What belongs to the browser stays with it.
  if (event.ctrlKey || event.altKey || event.metaKey) return;
  const now = frame.pointer.peek()?.time ?? frame.shown.peek().to;
  const move = (time: number | undefined) => {
    if (time !== undefined) frame.pointer.value = { time, by: name };
  };
  const far = Math.max(1, Math.round(times.length / 10));
  const after = times.filter((time) => time > now + 1e-6);
  const before = times.filter((time) => time < now - 1e-6);
  switch (event.key) {
    case 'ArrowLeft': case 'ArrowDown': move(before.at(-1)); break;
    case 'ArrowRight': case 'ArrowUp': move(after[0]); break;
    case 'PageDown': move(before.at(-far) ?? before[0]); break;
    case 'PageUp': move(after[far - 1] ?? after.at(-1)); break;
    case 'Home': move(times[0]); break;
    case 'End': move(times.at(-1)); break;
    case '+': case '=': frame.zoomBy(0.5, now); break;
    case '-': frame.zoomBy(2, now); break;
    case 'p': case ' ': frame.toggle(); break;
    case 'Escape': case '0':
      frame.pointer.value = null;
      frame.reset();
      break;
    default: return;
  }
  event.preventDefault();
}
