// Which view the address names. Behind `#`, so that one page serves them all.

import { computed, signal } from '@preact/signals';

export type Route = { view: 'overview' } | { view: 'device'; id: string } | { view: 'gateway' };

const hash = signal(location.hash);

addEventListener('hashchange', () => {
  hash.value = location.hash;
  // Another view begins at its top. The overview goes back to where it was by itself.
  if (route.peek().view !== 'overview') requestAnimationFrame(() => scrollTo(0, 0));
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
