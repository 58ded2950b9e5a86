// Which view the address names. Behind `#`, so that one page serves them all.

import { computed, signal } from '@preact/signals';

export type Route = { view: 'overview' } | { view: 'device'; id: string } | { view: 'gateway' };

const hash = signal(location.hash);
addEventListener('hashchange', () => {
  hash.value = location.hash;
});

export const route = computed<Route>(() => {
  const [view, id] = hash.value.replace(/^#\/?/, '').split('/');
  if (view === 'devices' && id) return { view: 'device', id: decodeURIComponent(id) };
  return view === 'gateway' ? { view } : { view: 'overview' };
});

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
