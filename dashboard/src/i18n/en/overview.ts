import { decimal } from '../../format/numbers.ts';

const several = (count: number, one: string, many: string) =>
  `${decimal(count, 0)}\u00a0${count === 1 ? one : many}`;
const lostReadings = (count: number) => `${several(count, 'reading has', 'readings have')} been lost.`;
const listed = (names: readonly string[], more: number) =>
  more > 0 ? `${names.join(', ')} and ${several(more, 'other', 'others')}` : names.join(', ');

export const overview = {
  title: 'Devices',
  strip: 'State of the gateway',
  /** The first is the state's name as it stands elsewhere. */
  was: (state: string) => `was ${state.toLowerCase()}`,
  lastKnown: (sentence: string) => `When last heard: ${sentence}`,
  waiting: 'Waiting for the gateway.',
  summary: {
    well: 'All is well: readings reach the broker as they arrive.',
    none: 'The broker is connected; no device is.',
    fresh: 'The broker is connected. No device has connected yet.',
    connecting: 'Connecting to the broker.',
    fault: (why: string) =>
      `The buffer cannot be written: ${why}. Devices keep what the gateway has not acknowledged.`,
    ledger: (why: string) =>
      `Commands cannot be recorded: ${why}. New ones are refused until there is room or the disk works again.`,
    damaged: (count: number) =>
      `${several(count, 'recorded command was', 'recorded commands were')} damaged and put aside; the log says more.`,
    away: (since: string | null, why: string | null) =>
      `The broker has been away${since ? ` for ${since}` : ''}${why ? `: ${why}` : ''}.`,
    kept: (batches: number, size: string) =>
      `Readings are kept on disk: ${several(batches, 'batch', 'batches')} (${size}) so far.`,
    nothing: 'Nothing is waiting yet.',
    full: 'The buffer is full.',
    fullIn: (time: string) => `At this rate the buffer is full in ${time}.`,
    agedIn: (time: string) => `The oldest readings reach the age limit in ${time}.`,
    draining: (batches: number, size: string) =>
      `The broker is connected and gets what was buffered: ${several(batches, 'batch', 'batches')} (${size}) to go.`,
    emptyIn: (time: string) => `It will be empty in about ${time}.`,
    lost: lostReadings,
    arrive: (lost: number) => `Readings reach the broker as they arrive. ${lostReadings(lost)}`,
    rejects: (count: number) =>
      `${several(count, 'batch was', 'batches were')} rejected in the last minute; the device's view says why.`,
    push: (name: string, why: string | null, queued: number) =>
      `The push to ${name} does not get through${why ? `: ${why}` : ''}. ${several(queued, 'reading waits', 'readings wait')} for it.`,
    silent: (count: number, names: readonly string[]) => (count === 1
      ? `${names[0] ?? ''} is connected but has fallen silent.`
      : `${decimal(count, 0)} devices are connected but have fallen silent: ${listed(names, count - names.length)}.`),
    offline: (count: number, names: readonly string[]) => (count === 1
      ? `${names[0] ?? ''} is offline.`
      : `${decimal(count, 0)} devices are offline: ${listed(names, count - names.length)}.`),
  },
  figures: {
    broker: 'Broker',
    uplink: { connected: 'Connected', connecting: 'Connecting', disconnected: 'Away' },
    lasting: (time: string) => `for ${time}`,
    buffer: 'Buffer',
    empty: 'Empty',
    batches: (count: number) => several(count, 'batch', 'batches'),
    share: (used: string, max: string) => `${used} of ${max}`,
    oldest: (time: string) => `oldest ${time}`,
    filled: 'Buffer filled',
    lasts: (time: string) => `lasts ${time} without the broker`,
    fullIn: (time: string) => `full in ${time}`,
    emptyIn: (time: string) => `empty in ${time}`,
    full: 'full',
    written: (size: string) => `${size} written today`,
    rates: 'Readings per second',
    in: 'in',
    out: 'out',
    lost: 'Lost readings',
    none: 'None',
    rejects: 'Rejected batches',
    sinceStart: 'since the start',
    gaps: (count: number) => several(count, 'gap in sequence', 'gaps in sequence'),
    devices: 'Devices online',
    of: (known: number) => `of ${decimal(known, 0)} known`,
  },
  all: 'All',
  which: 'Which devices',
  find: 'Find a device',
  findHint: 'Find a device ( / )',
  sort: 'Order',
  orders: { name: 'By name', state: 'Trouble first', newest: 'Newest reading', oldest: 'Oldest reading' },
  layout: 'Layout',
  layouts: { cards: 'Cards', list: 'List' },
  shown: (shown: number, all: number) => `${decimal(shown, 0)} of ${several(all, 'device', 'devices')} shown`,
  noDevice: 'No device has connected yet. Devices appear here as soon as they say hello.',
  noneFits: 'No device fits what you are looking for.',
  showAll: 'Show all devices',
  noReading: 'No reading yet.',
  more: (count: number) => `+${count} more`,
  heard: 'Last reading',
  awaySince: (time: string) => `for ${time}`,
  old: (time: string) => `${time} old`,
};
