//! The configuration: [`Settings`] is what the rest of the program works with, checked and
//! complete.
//!
//! `schema` is the list of keys, `raw` reads a file by it, `check` judges what the values mean
//! together; all faults of a file are found in one pass.

mod assemble;
mod check;
pub mod fault;
pub mod guarded;
mod in_force;
mod places;
pub mod raw;
pub mod registry;
pub mod schema;
pub mod text;
pub mod units;
pub mod url;
pub mod users;
pub mod watch;

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;

use self::fault::{Faults, Source};
use self::places::Places;
use self::raw::Values;
use self::schema::Applies;
use self::url::WriteUrl;
use crate::core::policy::Pattern;

/// The file that is read when none is named.
pub const DEFAULT_FILE: &str = "/etc/tidegate/tidegate.toml";

/// Everything that can be set, after all checks.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `[gateway]`
    pub gateway: Gateway,
    /// `[devices]`
    pub devices: Devices,
    /// `[mqtt]`
    pub mqtt: Mqtt,
    /// `[spool]`
    pub spool: SpoolSettings,
    /// `[commands]`
    pub commands: Commands,
    /// `[dashboard]`
    pub dashboard: Dashboard,
    /// `[history]`
    pub history: History,
    /// `[[push]]`
    pub pushes: Vec<Push>,
    /// `[log]`
    pub log: Log,
    /// The file they come from.
    pub file: PathBuf,
    /// What the operator should know though it is not wrong; one line each.
    pub warnings: Vec<String>,
    values: Values,
}

/// What the host adds to a configuration.
#[derive(Debug, Clone, Default)]
pub struct Surroundings {
    /// The default of `gateway.id`.
    pub host_name: Option<String>,
    /// The default of `gateway.data_dir`: what systemd made for the service.
    pub state_directory: Option<PathBuf>,
    /// Where `credential:NAME` is: what systemd made for the service.
    pub credentials_directory: Option<PathBuf>,
}

/// What a newer configuration changes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    /// Keys whose new value can take effect now.
    pub now: Vec<&'static str>,
    /// Keys whose new value needs a restart.
    pub after_restart: Vec<&'static str>,
}

impl Settings {
    /// Reads and checks a configuration file and the files it names.
    ///
    /// # Errors
    /// Everything that is wrong, each fault with its line.
    pub fn load(file: &Path) -> Result<Self, Faults> {
        Self::build(&read(file)?, file, &Surroundings::of_host(), true)
    }

    /// Like [`Self::load`], but the files it names may be missing or unreadable.
    ///
    /// # Errors
    /// Everything that is wrong with the file itself, each fault with its line.
    pub fn load_unchecked_files(file: &Path) -> Result<Self, Faults> {
        Self::build(&read(file)?, file, &Surroundings::of_host(), false)
    }

    /// Checks a configuration without touching the files it names. `file` says where relative
    /// paths begin and what faults call it.
    ///
    /// # Errors
    /// Everything that is wrong, each fault with its line.
    pub fn parse(text: &str, file: &Path, host: &Surroundings) -> Result<Self, Faults> {
        Self::build(text, file, host, false)
    }

    /// What `newer` changes, so that the log can say what needs a restart.
    #[must_use]
    pub fn changes(&self, newer: &Self) -> Changes {
        Changes {
            now: self.values.changed(&newer.values, Applies::Reload),
            after_restart: self.values.changed(&newer.values, Applies::Restart),
        }
    }

    /// Takes over what `newer` changes and what can change while running.
    pub fn take_over(&mut self, newer: &Self) {
        self.values.take_over(&newer.values);
        self.log.level.clone_from(&newer.log.level);
    }

    /// The files whose contents the listeners take up while running: certificates, keys, the
    /// authority of client certificates and its revocation list. (The registry has a watch of its
    /// own, the uplink reads its files whenever it connects.)
    #[must_use]
    pub fn certificate_files(&self) -> Vec<PathBuf> {
        let tls = self.devices.tls.iter().chain(&self.dashboard.tls);
        tls.flat_map(|tls| {
            [Some(&tls.cert), Some(&tls.key), tls.client_ca.as_ref(), tls.crl.as_ref()]
        })
        .flatten()
        .cloned()
        .collect()
    }

    fn build(text: &str, file: &Path, host: &Surroundings, files: bool) -> Result<Self, Faults> {
        let source = Source::new(file, text);
        let mut faults = Faults::default();
        let values = Values::read(&source, &mut faults);
        let places = Places::new(file, host);
        let mut settings = assemble::settings(values, &source, host, &mut faults);
        let mut check = check::Check {
            values: &settings.values,
            source: &source,
            places,
            faults: &mut faults,
            warnings: Vec::new(),
        };
        check.rules(&settings);
        if files {
            check.files(&settings);
        }
        settings.warnings = check.warnings;
        faults.or(settings)
    }
}

impl Surroundings {
    /// Those of this host.
    #[must_use]
    pub fn of_host() -> Self {
        let host_name = std::fs::read_to_string("/proc/sys/kernel/hostname")
            .ok()
            .or_else(|| std::env::var("HOSTNAME").ok())
            .map(|name| name.trim().to_owned());
        // systemd lists several folders with colons between; the first is the unit's main one.
        let state_directory = std::env::var_os("STATE_DIRECTORY")
            .and_then(|all| std::env::split_paths(&all).next())
            .filter(|first| !first.as_os_str().is_empty());
        let credentials_directory = std::env::var_os("CREDENTIALS_DIRECTORY")
            .map(PathBuf::from)
            .filter(|p| p.is_absolute());
        Self { host_name, state_directory, credentials_directory }
    }
}

fn read(file: &Path) -> Result<String, Faults> {
    std::fs::read_to_string(file).map_err(|e| Faults::of_file(file, format!("cannot be read: {e}")))
}

/// `[gateway]`
#[derive(Debug, Clone)]
pub struct Gateway {
    /// Its name in topics and payloads.
    pub id: String,
    /// Where the spool, the ledger of commands and the saved history live.
    pub data_dir: PathBuf,
    /// How long stopping in order may take.
    pub grace: Duration,
}

/// `[devices]`
#[derive(Debug, Clone)]
pub struct Devices {
    /// Where devices connect.
    pub listen: SocketAddr,
    /// How they prove who they are.
    pub auth: Auth,
    /// The registry file.
    pub registry: PathBuf,
    /// Origins that browsers may come from, compared exactly.
    pub allowed_origins: Vec<String>,
    /// Connections at a time.
    pub max_connections: usize,
    /// Connections at a time from one address.
    pub max_connections_per_address: usize,
    /// New connections per second, in the long run; [`Self::max_connections`] may come at once.
    pub max_handshakes_per_second: u32,
    /// The same from one address; [`Self::max_connections_per_address`] may come at once.
    pub max_handshakes_per_second_per_address: u32,
    /// `devices.trusted_proxies` and `devices.proxy_header`
    pub proxies: Proxies,
    /// From the TCP connection to HELLO.
    pub hello_timeout: Duration,
    /// How often the gateway pings.
    pub heartbeat_interval: Duration,
    /// How long after a ping a device may stay silent.
    pub heartbeat_timeout: Duration,
    /// For how long a device may take nothing of what it is sent.
    pub write_timeout: Duration,
    /// Unsettled batches per device.
    pub window: u32,
    /// Largest message in bytes.
    pub max_frame: usize,
    /// Most records in a pack.
    pub max_records: usize,
    /// Per device; over it, reading slows down.
    pub rate: Rate,
    /// Memory for unsettled batches of all devices, in bytes.
    pub max_unsettled: usize,
    /// `[devices.tls]`
    pub tls: Option<Tls>,
}

/// How devices prove who they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Auth {
    /// A bearer token of the registry.
    Token,
    /// A client certificate whose CN or a DNS SAN is the device id.
    Mtls,
    /// Not at all: loopback only.
    None,
}

/// Two token buckets.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rate {
    /// Batches per second.
    pub batches_per_second: f64,
    /// How many may come at once.
    pub burst: f64,
    /// Bytes per second, everything that the WebSocket brings.
    pub bytes_per_second: usize,
    /// How many may come at once.
    pub burst_bytes: usize,
}

/// Which peers are proxies, and how they tell where their clients are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Proxies {
    /// Their addresses and networks.
    pub trusted: Vec<IpNet>,
    /// How they tell.
    pub header: ProxyHeader,
}

/// How a proxy tells where its client is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ProxyHeader {
    /// A header of the PROXY protocol, version 2, before everything else, TLS included.
    ProxyProtocol,
    /// `X-Forwarded-For` in the request.
    #[default]
    XForwardedFor,
}

impl Proxies {
    /// Whether `address` is one of them.
    #[must_use]
    pub fn list(&self, address: IpAddr) -> bool {
        // An IPv4 peer of a socket that takes both comes as ::ffff:a.b.c.d.
        let address = address.to_canonical();
        self.trusted.iter().any(|network| network.contains(&address))
    }

    /// Whether `address` is one of them and tells by `header`.
    #[must_use]
    pub fn tell_by(&self, header: ProxyHeader, address: IpAddr) -> bool {
        self.header == header && self.list(address)
    }
}

/// A server's certificate.
#[derive(Debug, Clone)]
pub struct Tls {
    /// PEM file: the chain, the server's own first.
    pub cert: PathBuf,
    /// PEM file: its private key.
    pub key: PathBuf,
    /// PEM file: who signs client certificates.
    pub client_ca: Option<PathBuf>,
    /// PEM file: which client certificates `client_ca` has withdrawn (RFC 5280 section 5).
    pub crl: Option<PathBuf>,
}

/// `[mqtt]`
#[derive(Debug, Clone)]
pub struct Mqtt {
    /// The broker's host name or address.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// Whether `mqtts://`.
    pub tls: bool,
    /// Protocol version.
    pub version: MqttVersion,
    /// What every topic begins with, `{gateway}` filled in.
    pub prefix: String,
    /// How readings are written.
    pub payload: PayloadFormat,
    /// Whether Home Assistant is told about devices and readings.
    pub homeassistant: bool,
    /// What the topics of that begin with, `{gateway}` filled in.
    pub homeassistant_prefix: String,
    /// Messages that may await their PUBACK; the broker's own receive maximum may lower it.
    pub max_inflight: u16,
    /// How long a PUBACK may take before the connection is given up.
    pub ack_timeout: Duration,
    /// The longest wait between two attempts to connect.
    pub max_backoff: Duration,
    /// MQTT keep-alive.
    pub keep_alive: Duration,
    /// MQTT 5: how long the broker keeps commands for a gateway that is away.
    pub session_expiry: Duration,
    /// MQTT client id.
    pub client_id: String,
    /// User name.
    pub username: Option<String>,
    /// File that holds the password.
    pub password_file: Option<PathBuf>,
    /// PEM file: who signs the broker's certificate (default: the system's roots).
    pub ca: Option<PathBuf>,
    /// PEM file: own certificate.
    pub cert: Option<PathBuf>,
    /// PEM file: its key.
    pub key: Option<PathBuf>,
}

/// MQTT protocol version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MqttVersion {
    /// MQTT 3.1.1.
    V4,
    /// MQTT 5.
    V5,
}

/// How readings are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PayloadFormat {
    /// Envelope and readings as JSON.
    Json,
    /// The resolved pack alone, SenML JSON.
    SenmlJson,
    /// The resolved pack alone, SenML CBOR.
    SenmlCbor,
    /// One message per reading, the bare value.
    Value,
}

/// `[spool]`
#[derive(Debug, Clone)]
pub struct SpoolSettings {
    /// Most bytes on disk.
    pub max_bytes: u64,
    /// Bytes of the file system that are left to others, 0 for none.
    pub reserve: u64,
    /// Oldest batch kept.
    pub max_age: Duration,
    /// What happens at the limit.
    pub when_full: WhenFull,
    /// The order of the drain.
    pub drain: Drain,
    /// Batches per second, 0 for no limit.
    pub drain_rate: u32,
}

/// What happens when the spool is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhenFull {
    /// The oldest go, counted and reported.
    DropOldest,
    /// Devices are not read from.
    Block,
}

/// The order of the drain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drain {
    /// Oldest first; new batches join the tail.
    InOrder,
    /// New batches at once, the backlog behind them.
    LiveFirst,
}

/// `[commands]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Commands {
    /// Commands in the ledger at most.
    pub max_count: usize,
    /// How long one is kept after its end.
    pub max_age: Duration,
    /// Bytes of parameters as CBOR, and of a result.
    pub max_size: usize,
    /// Commands without RESULT on one connection.
    pub max_in_flight: usize,
    /// For how long one is wanted if the request does not say; whole seconds.
    pub default_ttl: Duration,
}

impl Commands {
    /// The same as `core::command` takes it; fractions of a second of the ttl are cut.
    #[must_use]
    pub fn desk(&self) -> crate::core::command::Settings {
        crate::core::command::Settings {
            max_count: self.max_count,
            max_age: self.max_age.as_secs_f64(),
            max_size: self.max_size,
            max_in_flight: self.max_in_flight,
            default_ttl: self.default_ttl.as_secs().max(1),
        }
    }
}

/// `[dashboard]`
#[derive(Debug, Clone)]
pub struct Dashboard {
    /// Where browsers connect.
    pub listen: SocketAddr,
    /// `dashboard.trusted_proxies` and `dashboard.proxy_header`
    pub proxies: Proxies,
    /// `[dashboard.tls]`
    pub tls: Option<Tls>,
    /// The file of users and API tokens; without it there is no login.
    pub users: Option<PathBuf>,
    /// How long a session lasts without a request.
    pub session_idle: Duration,
    /// How long a session lasts at most.
    pub session_max: Duration,
    /// Further names by which browsers may call the dashboard.
    pub allowed_hosts: Vec<String>,
    /// Pages of other origins that may talk to it.
    pub allowed_origins: Vec<String>,
}

/// What is kept of the readings of the last day, for charts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct History {
    /// Memory for it in bytes; 0: no history.
    pub max_memory: usize,
    /// Whether it is saved on the disk and outlives a restart.
    pub on_disk: bool,
    /// How often it is saved; zero: only when the gateway stops.
    pub save_every: Duration,
}

/// `[[push]]`
#[derive(Debug, Clone)]
pub struct Push {
    /// Its name in the log, the status and the metrics; no other has it.
    pub name: String,
    /// Where to.
    pub url: WriteUrl,
    /// How the secret is shown.
    pub auth: PushAuth,
    /// The file that holds it.
    pub token_file: Option<PathBuf>,
    /// PEM file: who signs the server's certificate (default: the system's roots).
    pub ca: Option<PathBuf>,
    /// What the lines begin with.
    pub measurement: String,
    /// Whose readings; empty for all.
    pub devices: Vec<Pattern>,
    /// Which readings; empty for all.
    pub readings: Vec<Pattern>,
    /// Lines in a request, at most.
    pub batch_size: usize,
    /// How long readings are gathered.
    pub interval: Duration,
    /// Memory for what waits, in bytes.
    pub max_buffer: usize,
    /// Whether requests are compressed.
    pub gzip: bool,
    /// For one request, from the connection to the end of the answer.
    pub timeout: Duration,
}

/// How a secret is shown to the server of a push.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PushAuth {
    /// `Authorization: Token …`, as `InfluxDB` has it.
    Token,
    /// `Authorization: Bearer …` (RFC 6750).
    Bearer,
    /// `Authorization: Basic …` (RFC 7617): the file holds `USER:PASSWORD`.
    Basic,
}

/// `[log]`
#[derive(Debug, Clone)]
pub struct Log {
    /// `tracing` filter, for example `info` or `info,tidegate::uplink=debug`.
    pub level: String,
    /// Where to.
    pub target: LogTarget,
}

/// Where log lines go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogTarget {
    /// The journal when started by systemd, else stderr.
    Auto,
    /// The journal.
    Journal,
    /// Standard error.
    Stderr,
}
