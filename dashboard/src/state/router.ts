// Which view the address names. Behind `#`, so that one page serves them all.

import { computed, signal } from '@preact/signals';

export type Route = { view: 'overview' } | { view: 'device'; id: string } | { view: 'gateway' };

const hash = signal(location.hash);

// How far down each view was, for who comes back to it.
const depths = new Map<string, number>();
let followed = false;
history.scrollRestoration = 'manual';
addEventListener('click', ({ target }) => {
  followed = target instanceof Element && target.closest('a[href^="#/"]') !== null;
}, { capture: true });
addEventListener('hashchange', () => {
  const depth = followed ? 0 : depths.get(location.hash) ?? 0;
  followed = false;
  depths.set(hash.peek(), scrollY);
  hash.value = location.hash;
  // The view is drawn by then.
  requestAnimationFrame(() => scrollTo(0, depth));
});

export const route = computed<Route>(() => {
  const [view, id] = hash.value.replace(/^#\/?/, '').split('/');
  if (view === 'devices' && id) return { view: 'device', id: decoded(id) };
  return view === 'gateway' ? { view } : { view: 'overview' };
});

function decoded(part: string): string {
  try {
    return decodeURIComponent(part);
  } catch {
    // Written by hand, with a % that means itself.
    return part;
  }
}

/** The address of a view. */
export function href(to: Route): string {
  switch (to.view) {
    case 'device':
      return `#/devices/${encodeURIComponent(to.id)}`;
    case 'gateway':
      return '#/gateway';
    default:
      return '#/';
  }
}
