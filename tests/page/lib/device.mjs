// A device of which a test says what it sends and when it goes.

import { once } from 'node:events';

import WebSocket from 'ws';

const [HELLO, READINGS] = [0, 1];
// The labels of SenML in CBOR (RFC 8428, section 6).
const [NAME, UNIT, VALUE, TEXT, BOOLEAN, TIME] = [0, 1, 2, 3, 4, 6];

/** CBOR (RFC 8949) of what a device says. */
function encode(item) {
  const head = (major, value) => {
    if (value < 24) return Buffer.from([(major << 5) | value]);
    const bytes = Buffer.alloc(5);
    bytes[0] = (major << 5) | 26;
    bytes.writeUInt32BE(value, 1);
    return bytes;
  };
  if (typeof item === 'boolean') return Buffer.from([item ? 0xf5 : 0xf4]);
  if (Number.isInteger(item) && item >= 0) return head(0, item);
  if (typeof item === 'number') {
    const bytes = Buffer.alloc(9);
    bytes[0] = 0xfb;
    bytes.writeDoubleBE(item, 1);
    return bytes;
  }
  if (typeof item === 'string') return Buffer.concat([head(3, Buffer.byteLength(item)), Buffer.from(item)]);
  if (Array.isArray(item)) return Buffer.concat([head(4, item.length), ...item.map(encode)]);
  return Buffer.concat([head(5, item.size), ...[...item].flat().map(encode)]);
}

export class Device {
  #seq = 0;

  /** Connects to a rig as `id`. */
  static async connect(rig, id, { commands = [] } = {}) {
    const device = new Device();
    device.socket = new WebSocket(`ws://127.0.0.1:${rig.devicesPort}/v1/devices/${id}`, ['tidegate.v1']);
    await once(device.socket, 'open');
    const hello = [['epoch', Math.floor(Math.random() * 2 ** 31)], ['commands', commands]];
    device.socket.send(encode([HELLO, new Map(hello)]));
    // WELCOME
    await once(device.socket, 'message');
    return device;
  }

  /** Sends one batch with what `readings` names; `unit` is that of the numbers. */
  send(readings, unit = 'Cel') {
    const time = Date.now() / 1000;
    const records = Object.entries(readings).map(([name, value]) => new Map([
      [NAME, name],
      ...(typeof value === 'number' ? [[UNIT, unit]] : []),
      [{ number: VALUE, string: TEXT, boolean: BOOLEAN }[typeof value], value],
      [TIME, time],
    ]));
    this.#seq += 1;
    this.socket.send(encode([READINGS, this.#seq, records]));
  }

  async leave() {
    if (this.socket.readyState === WebSocket.CLOSED) return;
    const closed = once(this.socket, 'close');
    this.socket.close();
    await closed;
  }
}
