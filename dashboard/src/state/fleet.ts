// The devices and their latest readings. Messages change the models at once; what shows them is
// told once per frame, so that a gateway with thousands of readings a second costs a page no more
// than its frames.

import { batch, signal, type Signal } from '@preact/signals';

import type { Device as Document, DeviceFacts, NamedReading, Reading } from '../api/types.ts';
import { gatewayTime } from './clock.ts';

/** never: in the registry, but has not connected yet. */
export type DeviceState = 'online' | 'stale' | 'offline' | 'never';

// A connected device counts as stale when this many of its usual intervals have passed in silence,
// but not before so many seconds.
const MISSED = 4;
const STALE_AT_LEAST = 10;
// A reading that has not come twice yet counts as old after so many seconds, or after as many
// intervals of its device.
const OLD_WHEN_UNKNOWN = 60;
// How much of a new interval goes into the usual one.
const SMOOTHING = 0.3;

export class Device {
  readonly id: string;
  facts: DeviceFacts;
  readonly readings = new Map<string, Reading>();
  /** Changes when anything of the device has. Read it to be told. */
  readonly version: Signal<number> = signal(0);

  constructor(facts: DeviceFacts) {
    this.id = facts.id;
    this.facts = facts;
  }

  /** When it last sent readings, on the gateway's clock, as far as this page knows. */
  heard: number | null = null;

  /** `now`: Unix seconds on the gateway's clock. */
  stateAt(now: number): DeviceState {
    const { connected, since, interval_s: interval } = this.facts;
    if (since === null) return 'never';
    if (!connected) return 'offline';
    if (this.heard === null) return 'online';
    const limit = Math.max(STALE_AT_LEAST, MISSED * (interval ?? 0));
    return now - Math.max(this.heard, since) > limit ? 'stale' : 'online';
  }

  /** Whether a reading's value is from so long ago that it tells little of now. */
  isOld(name: string, now: number): boolean {
    const reading = this.readings.get(name);
    if (!reading) return false;
    const pace = this.#pace.get(name);
    const limit = pace === undefined
      ? Math.max(OLD_WHEN_UNKNOWN, MISSED * (this.facts.interval_s ?? 0))
      : Math.max(STALE_AT_LEAST, MISSED * pace);
    return now - reading.t > limit;
  }

  /** Seconds between the values of each reading, as far as this page has seen two of it. */
  readonly #pace = new Map<string, number>();

  /** Takes up a newer value of a reading. */
  set(name: string, reading: Reading): void {
    const before = this.readings.get(name);
    if (before && reading.t > before.t) {
      const step = reading.t - before.t;
      const pace = this.#pace.get(name) ?? step;
      this.#pace.set(name, pace + (step - pace) * SMOOTHING);
    }
    this.readings.set(name, reading);
  }

  /** Forgets the readings that `names` does not hold. */
  keep(names: object): void {
    for (const name of this.readings.keys()) {
      if (name in names) continue;
      this.readings.delete(name);
      this.#pace.delete(name);
    }
  }
}

/** All devices by id. The map changes in place; `roster` tells when one comes or goes. */
export const fleet = new Map<string, Device>();

/** The ids, sorted as people sort them. A new array whenever one comes or goes. */
export const roster: Signal<readonly string[]> = signal([]);

const collator = new Intl.Collator('en', { numeric: true });
const changed = new Set<Device>();
let membership = false;
let frame = 0;

/** Takes a whole snapshot: adds, changes, removes. */
export function replaceFleet(documents: Document[]): void {
  const known = new Set(documents.map(({ id }) => id));
  for (const id of fleet.keys()) if (!known.has(id)) removeDevice(id);
  for (const { readings, ...facts } of documents) {
    const device = takeFacts(facts);
    device.keep(readings);
    for (const [name, reading] of Object.entries(readings)) {
      device.set(name, reading);
      // The best there is to know: a snapshot does not tell when its values came.
      const came = Math.min(reading.t, gatewayTime());
      if (device.heard === null || came > device.heard) device.heard = came;
    }
  }
}

/** A device is new, or something besides its readings has changed. */
export function takeFacts(facts: DeviceFacts): Device {
  let device = fleet.get(facts.id);
  if (device) {
    device.facts = facts;
  } else {
    device = new Device(facts);
    fleet.set(facts.id, device);
    membership = true;
  }
  touch(device);
  return device;
}

/** Newer readings of a device. */
export function takeReadings(id: string, records: NamedReading[], seen: number, interval?: number | null): void {
  const device = fleet.get(id);
  if (!device) return;
  for (const { n, ...reading } of records) device.set(n, reading);
  device.facts.last_seen = seen;
  device.heard = gatewayTime();
  if (interval !== undefined) device.facts.interval_s = interval;
  for (const listener of listeners) listener(id, records);
  touch(device);
}

/** The gateway no longer shows the device. */
export function removeDevice(id: string): void {
  const device = fleet.get(id);
  if (!device) return;
  fleet.delete(id);
  membership = true;
  touch(device);
}

type Listener = (device: string, records: NamedReading[]) => void;
const listeners = new Set<Listener>();

/** Hears of every message with readings; returns how to stop. For charts, which must miss none. */
export function onReadings(listener: Listener): () => void {
  listeners.add(listener);
  return () => listeners.delete(listener);
}

function touch(device: Device): void {
  changed.add(device);
  frame ||= requestAnimationFrame(flush);
}

function flush(): void {
  frame = 0;
  batch(() => {
    if (membership) roster.value = [...fleet.keys()].sort(collator.compare);
    membership = false;
    for (const device of changed) device.version.value += 1;
    changed.clear();
  });
}
