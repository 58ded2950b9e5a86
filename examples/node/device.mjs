// A device in Node that keeps what is not acknowledged and sends it again after a reconnect.
//
//     npm install
//     node device.mjs ws://127.0.0.1:7070 kiln-3 TOKEN COUNT [SECONDS_BETWEEN]
//
// Ends with 0 once COUNT batches are acknowledged.

import { randomBytes } from "node:crypto";
import { Encoder } from "cbor-x";
import WebSocket from "ws";

const [url, device, token, count = "10", seconds = "1"] = process.argv.slice(2);
if (!token) {
  console.error("usage: node device.mjs URL DEVICE TOKEN [COUNT] [SECONDS_BETWEEN]");
  process.exit(2);
}

const HELLO = 0, READINGS = 1, RESULT = 2, WELCOME = 16, ACK = 17, REJECT = 18, COMMAND = 19;
// Trying again would end the same way.
const FINAL_CLOSES = new Set([4003, 4009, 1002, 1003, 1007, 1009]);
const FINAL_REFUSALS = new Set([400, 401, 403, 404, 426]);
// Plain maps with number keys, as SenML wants them, and no extension of cbor-x's own.
const cbor = new Encoder({ mapsAsObjects: false, useRecords: false, tagUint8Array: false });

// Numbers start at 1 with this process, so it needs an epoch nobody used before.
// (cbor-x writes numbers above 2^32 as floating point, so it is a smaller one.)
const epoch = randomBytes(4).readUInt32BE();
const kept = new Map(); // seq -> message, oldest first
let seq = 0;
let sent = 0; // the highest number written to this connection
let inFlight = 0; // how many written ones are not settled
let window = 0;
let clockOffset = 0; // seconds
let socket = null;
let wait = 0.5;
let interval = Number(seconds);

// What this device can be told. A result is returned; what is thrown is told to whoever asked.
const handlers = {
  identify: () => new Map([["model", "device.mjs"], ["node", process.version]]),
  "set-interval": (params) => {
    const wanted = params instanceof Map ? params.get("seconds") : undefined;
    if (typeof wanted !== "number" || !(wanted >= 0.01 && wanted <= 3600)) {
      throw new Error('"seconds" must be a number from 0.01 to 3600');
    }
    const result = new Map([["seconds", wanted], ["before", interval]]);
    interval = wanted;
    return result;
  },
};
const REMEMBER = 64; // commands whose answers are remembered
const REPEAT = 8; // of them, how many are said again after a reconnect
const answers = new Map(); // id -> RESULT, so that a repeated command runs once

function command(id, name, params) {
  if (!answers.has(id)) {
    let result;
    try {
      if (!Object.hasOwn(handlers, name)) throw new Error(`${name} is not known here`);
      result = [RESULT, id, true, handlers[name](params)];
    } catch (error) {
      result = [RESULT, id, false, error.message];
    }
    answers.set(id, cbor.encode(result));
    if (answers.size > REMEMBER) answers.delete(answers.keys().next().value);
  }
  socket.send(answers.get(id));
}

function measure(name, unit, value) {
  seq += 1;
  const time = Date.now() / 1000 + clockOffset;
  const record = new Map([[0, name], [1, unit], [2, value], [6, time]]);
  kept.set(seq, cbor.encode([READINGS, seq, [record]]));
  flush();
}

function flush() {
  if (window === 0) return; // not greeted yet
  for (const [number, message] of kept) {
    if (inFlight >= window) return;
    if (number <= sent) continue;
    socket.send(message);
    sent = number;
    inFlight += 1;
  }
}

function settle(acked) {
  for (const number of kept.keys()) {
    if (number > acked) break;
    forget(number);
  }
}

function forget(number) {
  if (kept.delete(number) && number <= sent) inFlight -= 1;
}

function take(message) {
  switch (message[0]) {
    case WELCOME: {
      const welcome = message[1];
      clockOffset = welcome.get("time") - Date.now() / 1000;
      window = Number(welcome.get("window"));
      wait = 0.5;
      sent = 0;
      inFlight = 0;
      settle(Number(welcome.get("acked")));
      // Nothing says whether a RESULT arrived, so the last ones are said again; the gateway drops
      // those that it has.
      for (const answer of [...answers.values()].slice(-REPEAT)) socket.send(answer);
      break;
    }
    case ACK:
      settle(Number(message[1]));
      break;
    case REJECT:
      console.error("rejected:", ...message.slice(1, 4));
      forget(Number(message[1])); // it will never be taken: do not send it again
      break;
    case COMMAND:
      command(...message.slice(1, 4));
      break;
  }
  flush();
  if (seq >= Number(count) && kept.size === 0) {
    console.log(`${count} batches acknowledged`);
    socket.close(1000);
    process.exit(0);
  }
}

function connect() {
  let final = null;
  socket = new WebSocket(`${url}/v1/devices/${device}`, ["tidegate.v1"], {
    headers: { Authorization: `Bearer ${token}` },
    perMessageDeflate: false,
  });
  socket.on("open", () => {
    const commands = Object.keys(handlers);
    const hello = new Map([["epoch", epoch], ["model", "device.mjs"], ["commands", commands]]);
    socket.send(cbor.encode([HELLO, hello]));
  });
  socket.on("message", (data) => take(cbor.decode(data)));
  socket.on("unexpected-response", (request, response) => {
    let text = `${response.statusCode} `;
    response.on("data", (chunk) => { text += chunk; });
    response.on("end", () => {
      if (FINAL_REFUSALS.has(response.statusCode)) final = text;
      socket.emit("error", new Error(`refused: ${text.trim()}`));
      socket.emit("close", 1006, Buffer.alloc(0));
    });
  });
  socket.on("error", (error) => console.error(error.message));
  socket.on("close", (code, reason) => {
    window = 0;
    if (FINAL_CLOSES.has(code)) final = `${code} ${reason}`;
    if (final !== null) {
      console.error("the gateway does not want this device:", final.trim());
      process.exit(1);
    }
    // Half of it is chance, so that a thousand devices do not come back in one instant.
    setTimeout(connect, wait * (500 + 500 * Math.random()));
    wait = Math.min(wait * 2, 60);
  });
}

connect();
function step() {
  measure("temperature", "Cel", Math.round(2100 + 400 * Math.sin(seq / 10)) / 100);
  if (seq < Number(count)) setTimeout(step, interval * 1000);
}
setTimeout(step, interval * 1000);
