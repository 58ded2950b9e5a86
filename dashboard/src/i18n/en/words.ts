export const words = {
  yes: 'yes',
  no: 'no',
  bytes: (count: number) => `${count} bytes`,
  span: { s: '\u00a0s', min: '\u00a0min', h: '\u00a0h', d: '\u00a0d' },
  now: 'now',
  /** A state of a device. */
  state: { online: 'Online', stale: 'Stale', offline: 'Offline', never: 'Never seen' },
};
