// Until when the page knows how things are.

import { computed } from '@preact/signals';

import { gatewayTime, second } from './clock.ts';
import { connection } from './gateway.ts';

/**
 * Now, on the gateway's clock in Unix seconds; while the page's own connection is lost, the moment
 * it was lost. Whether a device is online or stale is judged at this time: silence that the page
 * could not hear means nothing.
 */
export const knownAt = computed(() => {
  const link = connection.value;
  const now = second.value;
  return link.state === 'lost' ? Math.floor(gatewayTime() - (Date.now() - link.since) / 1000) : now;
});
