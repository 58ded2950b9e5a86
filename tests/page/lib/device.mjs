// A device of which a test says what it sends and when it goes.

import { once } from 'node:events';

import { encode } from 'cborg';
import WebSocket from 'ws';

const [HELLO, READINGS] = [0, 1];
// The labels of SenML in CBOR (RFC 8428, section 6).
const [NAME, UNIT, VALUE, TEXT, BOOLEAN, TIME] = [0, 1, 2, 3, 4, 6];

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

  /** Sends one batch with what `readings` names, measured `age` seconds ago; `unit` is that of the numbers. */
  send(readings, { unit = 'Cel', age = 0 } = {}) {
    const time = Date.now() / 1000 - age;
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
