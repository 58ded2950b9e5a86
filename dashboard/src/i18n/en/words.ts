export const words = {
  yes: 'yes',
  no: 'no',
  bytes: (count: number) => `${count} bytes`,
  span: { s: 's', min: 'min', h: 'h', d: 'd' },
  now: 'now',
  /** A state of a device. */
  state: { online: 'Online', stale: 'Stale', offline: 'Offline', never: 'Never seen' },
};
