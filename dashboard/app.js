// The page: what arrives goes to the cards and to the strip above them.

import { Cards } from './cards.js';
import { Feed } from './feed.js';
import { bytes, count, decimal, moment, outlook, span, summary } from './format.js';

const $ = (id) => document.getElementById(id);

// The gateway's clock, as far as this page can tell: ages are counted on it, so that a wrong
// clock on this side makes no value look older or newer than it is.
const clock = {
  offset: 0,
  known: false,
  set(time) {
    const offset = time - Date.now() / 1000;
    // A message on its way ages: the least delayed one tells best. A jump is a clock set anew.
    const jump = Math.abs(offset - this.offset) > 2;
    this.offset = !this.known || jump ? offset : Math.max(offset, this.offset - 0.005);
    this.known = true;
  },
  now() {
    return Date.now() / 1000 + this.offset;
  },
};

const cards = new Cards($('cards'), () => clock.now());
let status = null;
let lost = null;
let announced = null;

const feed = new Feed({
  live() {
    lost = null;
    cards.current = true;
    link('live', 'Live');
    $('banner').hidden = true;
  },
  lost(at, retryAt) {
    lost = { at: lost?.at ?? at, retryAt };
    cards.current = false;
    link('lost', 'Not connected');
    const since = moment(lost.at / 1000, Date.now() / 1000);
    write('banner-text', status
      ? `No connection to the gateway since ${since}. What you see is how it was then.`
      : 'The gateway cannot be reached.');
    $('banner').hidden = false;
    countDown();
  },
  message(message) {
    switch (message.type) {
      case 'snapshot':
        // A gateway that was upgraded has a newer page too.
        if (status && status.version !== message.version) location.reload();
        clock.set(message.time);
        write('gateway', message.gateway);
        write('version', `tidegate ${message.version}`);
        cards.replace(message.devices);
        show(message.status);
        break;
      case 'readings':
        for (const record of message.readings) cards.reading(message.device, record.n, record);
        break;
      case 'device':
        if (message.forgotten) cards.remove(message.device);
        else cards.facts(message);
        empty();
        break;
      case 'status':
        clock.set(message.time);
        show(message);
        break;
      default: // Newer gateways may say more.
    }
  },
});

function write(id, text) {
  const node = $(id);
  if (node.textContent !== text) node.textContent = text;
}

function link(state, text) {
  document.body.dataset.link = state;
  write('link', text);
  title();
}

function title() {
  const name = status?.gateway ?? 'tidegate';
  const wrong = lost || ['warn', 'bad'].includes($('status').dataset.level);
  const text = `${wrong ? '⚠ ' : ''}${name}`;
  if (document.title !== text) document.title = text;
}

function show(now) {
  status = now;
  const { uplink, spool, devices } = now;
  const { kind, level, text } = summary(now, clock.now());
  $('status').dataset.level = level;
  write('summary', text);
  // Read out when it means something new, not with each figure that moves.
  if (announced !== kind + level) write('announcement', text);
  announced = kind + level;

  const connected = uplink.state === 'connected';
  write('uplink', { connected: 'Connected', connecting: 'Connecting' }[uplink.state] ?? 'Away');
  $('uplink').classList.toggle('warn', !connected);
  write('uplink-note', uplink.since > 0 ? `for ${span(clock.now() - uplink.since)}` : '');

  write('buffer', spool.batches ? count(spool.batches, 'batch', 'batches') : 'Empty');
  const oldest = spool.oldest_age_s === null ? '' : `, oldest ${span(spool.oldest_age_s)}`;
  write('buffer-note', `${bytes(spool.bytes)} of ${bytes(spool.max_bytes)}${oldest}`);
  write('outlook', outlook(spool));
  const share = spool.max_bytes > 0 ? Math.min(100, 100 * spool.bytes / spool.max_bytes) : 0;
  $('level').style.width = `${spool.batches ? Math.max(1, share) : share}%`;
  $('gauge').classList.toggle('warn', share >= 80);
  $('gauge').setAttribute('aria-valuenow', String(Math.round(share)));

  write('lost', spool.lost_readings ? decimal(spool.lost_readings, 0) : 'None');
  $('lost').classList.toggle('warn', spool.lost_readings > 0);
  write('lost-note', 'since the start');

  write('online', decimal(devices.connected, 0));
  write('online-note', `of ${decimal(devices.known, 0)} known`);
  title();
  empty();
}

function empty() {
  const none = cards.size === 0;
  $('empty').hidden = !none && cards.shown > 0;
  write('empty', none
    ? 'No device has connected yet. Devices appear here as soon as they say hello.'
    : 'No device fits what you are looking for.');
}

function countDown() {
  if (!lost) return;
  const seconds = Math.ceil((lost.retryAt - Date.now()) / 1000);
  write('banner-next', seconds > 0 ? `Next attempt in ${seconds} s.` : 'Trying now.');
}

setInterval(countDown, 500);

$('retry').addEventListener('click', () => feed.retry());

function want() {
  const which = document.querySelector('input[name=which]:checked').value;
  cards.want(which, $('find').value);
  if (status) empty();
}

$('find').addEventListener('input', want);
for (const choice of document.querySelectorAll('input[name=which]')) {
  choice.addEventListener('change', want);
}
