// How numbers, times and states read. Pure: nothing here touches the page.

// SenML units (RFC 8428 section 12.1, RFC 8798) that people write differently.
const UNITS = {
  Cel: '°C', '%RH': '% RH', '%EL': '%', EL: 's', Ohm: 'Ω', l: 'L', 'l/s': 'L/s',
  m2: 'm²', m3: 'm³', 'm3/s': 'm³/s', 'm/s2': 'm/s²', 'W/m2': 'W/m²', 'cd/m2': 'cd/m²',
  'kg/m3': 'kg/m³', 'ug/m3': 'µg/m³', 'beat/min': 'bpm', '1/s': '/s', '1/min': '/min',
  '/100': '%', '/1000': '‰', deg: '°', lat: '°', lon: '°', count: '', '/': '', XY: '',
};

const BINARY = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
const DECIMAL = ['bit/s', 'kbit/s', 'Mbit/s', 'Gbit/s'];

const grouped = new Map();

// A number with a fixed count of decimals, thousands grouped.
export function decimal(value, decimals) {
  let format = grouped.get(decimals);
  if (!format) {
    format = new Intl.NumberFormat('en-GB',
      { minimumFractionDigits: decimals, maximumFractionDigits: decimals });
    grouped.set(decimals, format);
  }
  return format.format(value).replaceAll(',', '\u202f').replace('-', '−');
}

// The decimals a number needs for four significant digits, at most three.
function decimalsOf(value) {
  const size = Math.abs(value);
  const room = size >= 1000 ? 0 : size >= 100 ? 1 : size >= 10 ? 2 : 3;
  const digits = value.toFixed(room).replace(/\.?0+$/, '').split('.')[1];
  return room === 0 ? 0 : digits?.length ?? 0;
}

function scaled(value, steps, base) {
  let step = 0;
  while (Math.abs(value) >= base && step < steps.length - 1) {
    value /= base;
    step += 1;
  }
  return [value, steps[step]];
}

// What a reading says: text, unit and the decimals it used. `decimals` is what the same reading
// used before, so that a value does not change its width with every message.
export function reading(record, decimals = 0) {
  if (typeof record.v === 'number') return number(record.v, record.u ?? '', decimals);
  if (typeof record.vb === 'boolean') return { text: record.vb ? 'yes' : 'no', unit: '', decimals };
  if (typeof record.vs === 'string') {
    const cut = record.full_length ? '…' : '';
    return { text: record.vs + cut, unit: '', decimals, words: true };
  }
  if (typeof record.vd === 'string') {
    const length = record.full_length ?? Math.floor(record.vd.length * 3 / 4);
    return { text: `${length} bytes`, unit: '', decimals, words: true };
  }
  if (typeof record.s === 'number') {
    const sum = number(record.s, record.u ?? '', decimals);
    return { ...sum, text: `Σ ${sum.text}` };
  }
  return { text: '–', unit: '', decimals };
}

function number(value, unit, decimals) {
  let shown = unit in UNITS ? UNITS[unit] : unit;
  if (unit === 'Pa' && Math.abs(value) >= 10000) [value, shown] = [value / 100, 'hPa'];
  if (unit === 'B') [value, shown] = scaled(value, BINARY, 1024);
  if (unit === 'B/s') {
    [value, shown] = scaled(value, BINARY, 1024);
    shown += '/s';
  }
  if (unit === 'bit/s') [value, shown] = scaled(value, DECIMAL, 1000);
  const size = Math.abs(value);
  if (size >= 1e9 || (size > 0 && size < 0.0005)) {
    return { text: value.toPrecision(4).replace('-', '−'), unit: shown, decimals };
  }
  const needed = decimalsOf(value);
  // A number that has grown by a digit gives a decimal back.
  const room = size >= 1000 ? 0 : size >= 100 ? 1 : size >= 10 ? 2 : 3;
  decimals = Math.min(Math.max(needed, decimals), room);
  return { text: decimal(value, decimals), unit: shown, decimals };
}

// A span of seconds in one or two words: `12 s`, `3 min`, `5 h`, `2 d`. Never broken over lines.
export function span(seconds) {
  const whole = (size, unit) => `${decimal(Math.max(0, Math.floor(seconds / size)), 0)}\u00a0${unit}`;
  if (seconds < 60) return whole(1, 's');
  if (seconds < 3600) return whole(60, 'min');
  if (seconds < 86400) return whole(3600, 'h');
  return whole(86400, 'd');
}

// How long ago, for a value that should be new.
export function age(seconds) {
  return seconds < 1.5 ? 'now' : span(seconds);
}

export function bytes(count) {
  const [value, unit] = scaled(count, BINARY, 1024);
  return `${decimal(value, unit === 'B' || value >= 100 ? 0 : 1)}\u00a0${unit}`;
}

export function count(number, one, many = `${one}s`) {
  return `${decimal(number, 0)}\u00a0${number === 1 ? one : many}`;
}

// A moment as a clock shows it, with the date when it was another day.
export function moment(seconds, now) {
  const then = new Date(seconds * 1000);
  const time = then.toLocaleTimeString('en-GB');
  const today = new Date(now * 1000).toDateString() === then.toDateString();
  return today ? time : `${then.toLocaleDateString('en-GB')} ${time}`;
}

// When the buffer reaches a limit, as a sentence with a space before it.
function filled({ full_in_s: full, lasts_s: lasts, batches }) {
  if (full === 0) return ' The buffer is full.';
  if (typeof full === 'number') return ` At this rate the buffer is full in ${span(full)}.`;
  // The age limit comes first.
  return batches > 0 && typeof lasts === 'number'
    ? ` The oldest readings reach the age limit in ${span(lasts)}.` : '';
}

// What stands below the buffer's figure: what the next outage may last, what the disk had to take.
export function outlook({ lasts_s: lasts, disk_written_today_bytes: today }) {
  const parts = [];
  if (typeof lasts === 'number') parts.push(lasts > 0 ? `lasts ${span(lasts)} without the broker` : 'full');
  if (typeof today === 'number') parts.push(`${bytes(today)} written today`);
  return parts.join(', ');
}

// What the gateway's state means, in a sentence or two, and how bad it is. `kind` changes when the
// meaning does, not when a figure in it does.
export function summary({ uplink, spool, devices }, now) {
  const waiting = spool.batches > 0;
  const lost = spool.lost_readings > 0
    ? ` ${count(spool.lost_readings, 'reading has', 'readings have')} been lost.` : '';
  const buffered = `${count(spool.batches, 'batch', 'batches')} (${bytes(spool.bytes)})`;
  if (spool.fault) {
    return {
      kind: 'fault',
      level: 'bad',
      text: `The buffer cannot be written: ${spool.fault}. `
        + `Devices keep what the gateway has not acknowledged.${lost}`,
    };
  }
  if (uplink.state !== 'connected') {
    const since = uplink.since > 0 ? ` for ${span(now - uplink.since)}` : '';
    const why = uplink.last_error ? `: ${uplink.last_error}` : '';
    const first = uplink.state === 'connecting' && !uplink.last_error && !waiting;
    const safe = waiting
      ? ` Readings are kept on disk: ${buffered} so far.`
      : ' Nothing is waiting yet.';
    const full = filled(spool);
    if (first) {
      return {
        kind: 'connecting', level: lost ? 'warn' : 'notice', text: `Connecting to the broker.${lost}`,
      };
    }
    return {
      kind: 'away',
      level: lost ? 'bad' : 'warn',
      text: `The broker has been away${since}${why}.${safe}${full}${lost}`,
    };
  }
  if (waiting) {
    const left = spool.drained_in_s === null
      ? '' : ` It will be empty in about ${span(Math.max(1, spool.drained_in_s))}.`;
    return {
      kind: 'draining',
      level: lost ? 'warn' : 'notice',
      text: `The broker is connected and gets what was buffered: ${buffered} to go.${left}${lost}`,
    };
  }
  if (lost) {
    return { kind: 'lost', level: 'warn', text: `Readings reach the broker as they arrive.${lost}` };
  }
  if (devices.known > 0 && devices.connected === 0) {
    return { kind: 'none', level: 'notice', text: 'The broker is connected; no device is.' };
  }
  if (devices.known === 0) {
    return { kind: 'new', level: 'ok', text: 'The broker is connected. No device has connected yet.' };
  }
  return { kind: 'well', level: 'ok', text: 'All is well: readings reach the broker as they arrive.' };
}
