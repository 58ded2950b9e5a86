// What the gateway says, as it says it. Times are Unix seconds on the gateway's clock, spans are
// seconds, unknown is null. See docs/dashboard.md and /api/v1/openapi.json.

/** A resolved SenML record (RFC 8428) without its name. */
export interface Reading {
  v?: number;
  vs?: string;
  vb?: boolean;
  /** base64url */
  vd?: string;
  s?: number;
  u?: string | null;
  t: number;
  /** Bytes of a text or data value of which only the beginning is here. */
  full_length?: number;
}

export interface NamedReading extends Reading {
  n: string;
}

export interface DeviceFacts {
  id: string;
  connected: boolean;
  /** Connected, or away, since then. Null: has never connected. */
  since: number | null;
  last_seen: number | null;
  model: string | null;
  firmware: string | null;
  address: string | null;
  /** Some of its readings did not fit the table. */
  incomplete?: boolean;
  /** The commands it announced. */
  commands?: string[];
  interval_s?: number | null;
}

export interface Device extends DeviceFacts {
  readings: Record<string, Reading>;
}

export interface Refusal {
  time: number;
  kind: 'batch' | 'connection' | 'rate';
  code: number;
  reason: string;
  count: number;
}

/** What only the answer for a single device holds. */
export interface DeviceDetail extends Device {
  connection?: {
    epoch: number | null;
    seq: number | null;
    batches: number;
    readings: number;
    gaps: number;
    duplicates: number;
    rejected: number;
    round_trip_s: number | null;
  };
  refusals?: Refusal[];
}

export interface Push {
  name: string;
  url: string;
  state: 'ok' | 'retrying';
  queued_readings: number;
  sent_readings: number;
  dropped_readings: number;
  last_error: string | null;
}

export interface Status {
  gateway: string;
  version: string;
  uptime_s: number;
  uplink: {
    state: 'connected' | 'connecting' | 'disconnected';
    since: number;
    last_error: string | null;
  };
  spool: {
    batches: number;
    readings: number;
    bytes: number;
    max_bytes: number;
    oldest_age_s: number | null;
    lost_readings: number;
    full_in_s: number | null;
    drained_in_s: number | null;
    lasts_s: number | null;
    disk_written_bytes: number | null;
    disk_written_today_bytes: number | null;
    fault?: string;
  };
  devices: { connected: number; known: number };
  commands?: { fault?: string; damaged: number };
  rates?: { in: number; out: number };
  rejected_batches?: number;
  sequence_gaps?: number;
  duplicates?: number;
  push?: Push[];
}

export type CommandState = 'queued' | 'delivered' | 'done' | 'failed' | 'expired' | 'rejected';

/** A command's record; see docs/commands.md. */
export interface Command {
  id: string;
  device: string;
  name: string;
  params?: unknown;
  state: CommandState;
  value?: unknown;
  error?: string | null;
  /** When the state was entered. */
  time: number;
  accepted?: number;
  expires?: number;
  /** Seconds. */
  ttl?: number;
  redeliver?: boolean;
  /** How often it was sent. */
  sent?: number;
  requester?: { via: string; name?: string | null; response?: string | null } | null;
  history?: { state: CommandState; time: number; late?: boolean }[];
}

export type Level = 'error' | 'warn' | 'info' | 'debug' | 'trace';

/** An entry of the audit log; admins read it at /api/v1/audit. */
export interface AuditEntry {
  time: number;
  event: string;
  who?: string;
  role?: string;
  from?: string;
  what?: string;
  outcome: string;
}

export interface LogEntry {
  number: number;
  time: number;
  level: Level;
  target: string;
  message: string;
  fields: Record<string, unknown>;
}

/** A bucket: its start, and the least, mean and greatest value in it. */
export type Point = [time: number, min: number, mean: number, max: number];

export interface History {
  name: string;
  unit: string | null;
  from: number;
  to: number;
  step_s: number;
  points: Point[];
  /** Of a text or boolean reading: each change. */
  states: [time: number, value: string | boolean][];
}

/** A message of the feed, `/api/v1/stream`. */
export type Message =
  | { type: 'snapshot'; gateway: string; version: string; time: number; status: Status; devices: Device[] }
  | {
      type: 'readings';
      device: string;
      last_seen: number;
      interval_s?: number | null;
      readings: NamedReading[];
    }
  | ({ type: 'device'; device: string; forgotten?: boolean } & DeviceFacts)
  | ({ type: 'status'; time: number } & Status)
  | ({ type: 'command' } & Command)
  | ({ type: 'log' } & LogEntry);

/** How much of something with a bound is used; both in the same unit. */
export interface Limit {
  name: string;
  used: number;
  limit: number;
  /** What moves the bound; null where it is fixed. */
  setting: string | null;
  unit?: string;
}

/** A value of a configuration file. */
export type Setting = string | number | boolean | null | Setting[] | { [key: string]: Setting };

/** The gateway itself: `/api/v1/gateway`. */
export interface About {
  gateway: string;
  version: string;
  time: number;
  started: number;
  configuration_file: string;
  machine: {
    hostname: string | null;
    system: string | null;
    kernel: string | null;
    architecture: string | null;
    cpus: number | null;
    load: [number, number, number] | null;
    uptime_s: number | null;
    memory: { total_bytes: number; available_bytes: number } | null;
    disk: { path: string; total_bytes: number; free_bytes: number } | null;
    temperatures: { name: string; celsius: number }[];
  };
  process: {
    cpu_percent: number | null;
    resident_bytes: number | null;
    threads: number | null;
    open_files: number | null;
    max_open_files: number | null;
  };
  limits: Limit[];
  configuration: { [table: string]: Setting };
}
