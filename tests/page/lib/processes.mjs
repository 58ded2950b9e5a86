// The programs under test, as processes that this test started and ends.

import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';

/** How long anything may take before a test gives up, in milliseconds. */
export const DEADLINE = 60_000;

const { TIDEGATE_BIN } = process.env;

/** One process of the binary under test. */
class Process {
  constructor(args) {
    assert.ok(TIDEGATE_BIN, 'set TIDEGATE_BIN to the binary under test');
    this.name = args[0];
    this.child = spawn(TIDEGATE_BIN, args, { stdio: ['pipe', 'pipe', 'inherit'] });
    this.ended = new Promise((resolve) => { this.child.once('exit', resolve); });
    this.lines = createInterface({ input: this.child.stdout });
    // What ends while it is being written to has its say in `says`.
    this.child.stdin.on('error', () => {});
  }

  get running() {
    return this.child.exitCode === null && this.child.signalCode === null;
  }

  /** Waits for a line of its output that fits, and returns the match. */
  says(pattern) {
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => reject(new Error(`${this.name} does not say ${pattern}`)), DEADLINE);
      const settle = (how, what) => {
        clearTimeout(timer);
        how(what);
      };
      this.child.once('error', (error) => settle(reject, error));
      this.child.once('exit', (code) => settle(reject, new Error(`${this.name} ended with ${code}`)));
      this.lines.on('line', (line) => {
        const found = line.match(pattern);
        if (found) settle(resolve, found);
      });
    });
  }

  async kill() {
    if (this.running) this.child.kill('SIGKILL');
    await this.ended;
  }
}

/** `tidegate demo`: everything, with devices that send something worth looking at. */
export class Demo {
  static async start(...options) {
    const made = new Demo();
    made.port = await freePort();
    made.options = options;
    await made.run();
    return made;
  }

  async run() {
    this.process = new Process([
      'demo', '--for', '15m', '--dashboard-port', String(this.port),
      '--devices-port', String(await freePort()), '--broker-port', String(await freePort()),
      ...this.options,
    ]);
    const [, url] = await this.process.says(/^dashboard\s+(http:\/\/\S+?)\/?$/);
    this.url = url;
  }

  /** Sends a signal to the gateway, which the demo runs as a child. */
  signal(name) {
    const { pid } = this.process.child;
    const children = readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').trim().split(' ');
    const words = (child) => readFileSync(`/proc/${child}/cmdline`, 'utf8').split('\0');
    const found = children.find((child) => words(child).includes('demo-gateway'));
    assert.ok(found, `no gateway among ${children}`);
    process.kill(Number(found), name);
  }

  async kill() {
    if (this.process.running) {
      try {
        this.signal('SIGKILL');
      } finally {
        await this.process.kill();
      }
    }
    await this.process.ended;
  }
}

/** Gateway, broker and simulated devices as separate processes, so that each can be taken away. */
export class Rig {
  static async start({ devices = 0, rate = 1, batch = 1, users = [], settings = '' } = {}) {
    const rig = new Rig();
    rig.folder = mkdtempSync(join(tmpdir(), 'tidegate-page-'));
    [rig.port, rig.devicesPort, rig.brokerPort] = [await freePort(), await freePort(), await freePort()];
    rig.url = `http://127.0.0.1:${rig.port}`;
    rig.config = join(rig.folder, 'tidegate.toml');
    writeFileSync(rig.config, `
[gateway]
id = "rig"
data_dir = "data"
[devices]
listen = "127.0.0.1:${rig.devicesPort}"
auth = "none"
[mqtt]
url = "mqtt://127.0.0.1:${rig.brokerPort}"
[dashboard]
listen = "127.0.0.1:${rig.port}"
${users.length > 0 ? 'users = "users.toml"' : ''}
[log]
target = "stderr"
level = "info"
${settings}`);
    for (const user of users) rig.addUser(user);
    await rig.startBroker();
    await rig.startGateway();
    if (devices > 0) {
      // One address may have 1024 connections.
      const sources = String(Math.ceil(devices / 1000));
      rig.simulate('--devices', String(devices), '--rate', String(rate), '--batch', String(batch), '--sources', sources);
    }
    return rig;
  }

  addUser({ name, role, password }) {
    const words = ['user', 'add', name, '--role', role, '--password-file', '-', '--config', this.config];
    execFileSync(TIDEGATE_BIN, words, { input: `${password}\n`, stdio: ['pipe', 'ignore', 'ignore'] });
  }

  removeUser(name) {
    execFileSync(TIDEGATE_BIN, ['user', 'remove', name, '--config', this.config], { stdio: 'ignore' });
  }

  async startBroker() {
    this.broker = new Process(['demo-broker', '--listen', `127.0.0.1:${this.brokerPort}`]);
    await this.broker.says(/^listening /);
  }

  async startGateway() {
    this.gateway = new Process(['run', '--config', this.config]);
    const deadline = Date.now() + DEADLINE;
    for (;;) {
      assert.ok(this.gateway.running, 'the gateway has ended');
      assert.ok(Date.now() < deadline, 'the gateway does not become ready');
      const answer = await fetch(`${this.url}/readyz`).catch(() => null);
      if (answer?.ok) return;
      await new Promise((resolve) => { setTimeout(resolve, 50); });
    }
  }

  simulate(...options) {
    this.devices = new Process(['simulate', '--url', `ws://127.0.0.1:${this.devicesPort}`, ...options]);
    this.devices.lines.resume();
  }

  async kill() {
    for (const one of [this.devices, this.gateway, this.broker]) await one?.kill();
    rmSync(this.folder, { recursive: true, force: true });
  }
}

function freePort() {
  return new Promise((resolve, reject) => {
    const server = createServer();
    server.once('error', reject);
    server.listen(0, '127.0.0.1', () => {
      const { port } = server.address();
      server.close(() => resolve(port));
    });
  });
}
