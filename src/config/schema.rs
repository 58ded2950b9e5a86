//! Every key there is: its type, default and range. The one list that reading, checking, the
//! documentation's test and the examples' test go by.

use super::text;
use super::units::{format_size, format_time};
use std::time::Duration;

/// One key of the configuration file.
#[derive(Debug)]
pub struct Key {
    /// Dotted path, for example `devices.rate.burst`.
    pub path: &'static str,
    /// What it may hold.
    pub kind: Kind,
    /// What holds when it is absent.
    pub default: Otherwise,
    /// When a changed value takes effect.
    pub applies: Applies,
}

/// What a key may hold.
#[derive(Debug)]
pub enum Kind {
    /// `true` or `false`.
    Flag,
    /// An integer, both ends included.
    Integer(i64, i64),
    /// A number, both ends included.
    Number(f64, f64),
    /// Bytes, both ends included.
    Size(u64, u64),
    /// Milliseconds, both ends included.
    Time(u64, u64),
    /// One of these strings.
    OneOf(&'static [&'static str]),
    /// One of these integers.
    OneOfIntegers(&'static [i64]),
    /// An IP address and port.
    Address,
    /// A file or folder that the gateway or its tools write.
    Path,
    /// A file that is only read; may be a credential of systemd.
    File,
    /// A string with rules of its own.
    Text(&'static Rule),
    /// A list of such strings.
    Texts(&'static Rule),
}

/// The rule of a string.
#[derive(Debug)]
pub struct Rule {
    /// What is allowed, for a person.
    pub allowed: &'static str,
    /// Says what is wrong with a string.
    pub check: fn(&str) -> Result<(), String>,
}

/// What holds when a key is absent.
#[derive(Debug, Clone, Copy)]
pub enum Otherwise {
    /// This TOML value.
    Toml(&'static str),
    /// Found out at the start; in words.
    Found(&'static str),
    /// Nothing.
    Absent,
}

/// When a changed value takes effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Applies {
    /// On SIGHUP.
    Reload,
    /// After a restart.
    Restart,
}

use Applies::{Reload, Restart};
use Kind::{
    Address, File, Flag, Integer, Number, OneOf, OneOfIntegers, Path, Size, Text, Texts, Time,
};
use Otherwise::{Absent, Found, Toml};

const fn key(path: &'static str, kind: Kind, default: Otherwise, applies: Applies) -> Key {
    Key { path, kind, default, applies }
}

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const SECOND: u64 = 1000;
const MINUTE: u64 = 60 * SECOND;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

const PROXY_HEADERS: &[&str] = &["proxy-protocol", "x-forwarded-for"];

/// The keys in the order of the documentation.
pub static KEYS: &[Key] = &[
    key("gateway.id", Text(&text::GATEWAY_ID), Found("the host name"), Restart),
    key("gateway.data_dir", Path, Found("$STATE_DIRECTORY, else ./data"), Restart),
    key("gateway.grace", Time(100, 10 * MINUTE), Toml("\"10s\""), Restart),
    key("devices.listen", Address, Toml("\"127.0.0.1:7070\""), Restart),
    key("devices.auth", OneOf(&["token", "mtls", "none"]), Toml("\"token\""), Restart),
    key("devices.registry", Path, Toml("\"devices.toml\""), Restart),
    key("devices.allowed_origins", Texts(&text::ORIGIN), Toml("[]"), Restart),
    key("devices.max_connections", Integer(1, 1_000_000), Toml("10000"), Restart),
    key("devices.max_connections_per_address", Integer(1, 1_000_000), Toml("1024"), Restart),
    key("devices.max_handshakes_per_second", Integer(1, 1_000_000), Toml("1000"), Restart),
    key(
        "devices.max_handshakes_per_second_per_address",
        Integer(1, 1_000_000),
        Toml("100"),
        Restart,
    ),
    key("devices.trusted_proxies", Texts(&text::NETWORK), Toml("[]"), Restart),
    key("devices.proxy_header", OneOf(PROXY_HEADERS), Toml("\"x-forwarded-for\""), Restart),
    key("devices.hello_timeout", Time(100, 5 * MINUTE), Toml("\"5s\""), Restart),
    key("devices.heartbeat_interval", Time(100, HOUR), Toml("\"30s\""), Restart),
    key("devices.heartbeat_timeout", Time(100, HOUR), Toml("\"10s\""), Restart),
    key("devices.write_timeout", Time(100, HOUR), Toml("\"30s\""), Restart),
    key("devices.window", Integer(1, 4096), Toml("64"), Restart),
    key("devices.max_frame", Size(256, 16 * MIB), Toml("\"64KiB\""), Restart),
    key("devices.max_records", Integer(1, 65_536), Toml("1024"), Restart),
    key("devices.max_unsettled", Size(64 * KIB, 1 << 30), Toml("\"8MiB\""), Restart),
    key("devices.rate.batches_per_second", Number(0.001, 1_000_000.0), Toml("200"), Restart),
    key("devices.rate.burst", Number(1.0, 1_000_000.0), Toml("400"), Restart),
    key("devices.rate.bytes_per_second", Size(KIB, 1 << 30), Toml("\"1MiB\""), Restart),
    key("devices.rate.burst_bytes", Size(KIB, 1 << 30), Toml("\"4MiB\""), Restart),
    key("devices.tls.cert", File, Absent, Restart),
    key("devices.tls.key", File, Absent, Restart),
    key("devices.tls.client_ca", File, Absent, Restart),
    key("devices.tls.crl", File, Absent, Restart),
    key("mqtt.url", Text(&text::BROKER_URL), Toml("\"mqtt://127.0.0.1:1883\""), Restart),
    key("mqtt.version", OneOfIntegers(&[4, 5]), Toml("5"), Restart),
    key("mqtt.prefix", Text(&text::PREFIX), Toml("\"tidegate/{gateway}\""), Restart),
    key(
        "mqtt.payload",
        OneOf(&["json", "senml-json", "senml-cbor", "value"]),
        Toml("\"json\""),
        Restart,
    ),
    key("mqtt.homeassistant", Flag, Toml("false"), Restart),
    key("mqtt.homeassistant_prefix", Text(&text::PREFIX), Toml("\"homeassistant\""), Restart),
    key("mqtt.client_id", Text(&text::CLIENT_ID), Toml("\"tidegate-{gateway}\""), Restart),
    key("mqtt.username", Text(&text::USER_NAME), Absent, Restart),
    key("mqtt.password_file", File, Absent, Restart),
    key("mqtt.ca", File, Absent, Restart),
    key("mqtt.cert", File, Absent, Restart),
    key("mqtt.key", File, Absent, Restart),
    key("mqtt.max_inflight", Integer(1, 65_535), Toml("100"), Restart),
    key("mqtt.ack_timeout", Time(100, 10 * MINUTE), Toml("\"10s\""), Restart),
    key("mqtt.max_backoff", Time(SECOND, 10 * MINUTE), Toml("\"60s\""), Restart),
    key("mqtt.keep_alive", Time(SECOND, 65_535 * SECOND), Toml("\"30s\""), Restart),
    key("mqtt.session_expiry", Time(SECOND, 30 * DAY), Toml("\"1h\""), Restart),
    key("spool.max_bytes", Size(MIB, 16 << 40), Toml("\"512MiB\""), Restart),
    key("spool.reserve", Size(0, 16 << 40), Toml("\"64MiB\""), Restart),
    key("spool.max_age", Time(SECOND, 3650 * DAY), Toml("\"7d\""), Restart),
    key("spool.when_full", OneOf(&["drop-oldest", "block"]), Toml("\"drop-oldest\""), Restart),
    key("spool.drain", OneOf(&["in-order", "live-first"]), Toml("\"in-order\""), Restart),
    key("spool.drain_rate", Integer(0, 1_000_000), Toml("0"), Restart),
    key("commands.max_count", Integer(1, 100_000), Toml("1000"), Restart),
    key("commands.max_age", Time(MINUTE, 3650 * DAY), Toml("\"30d\""), Restart),
    key("commands.max_size", Size(64, 32 * KIB), Toml("\"8KiB\""), Restart),
    key("commands.max_in_flight", Integer(1, 1000), Toml("8"), Restart),
    key("commands.default_ttl", Time(SECOND, 7 * DAY), Toml("\"60s\""), Restart),
    key("dashboard.listen", Address, Toml("\"127.0.0.1:8080\""), Restart),
    key("dashboard.allowed_hosts", Texts(&text::HOST), Toml("[]"), Restart),
    key("dashboard.allowed_origins", Texts(&text::ORIGIN), Toml("[]"), Restart),
    key("dashboard.users", Path, Absent, Restart),
    key("dashboard.session_idle", Time(SECOND, 30 * DAY), Toml("\"12h\""), Restart),
    key("dashboard.session_max", Time(SECOND, 365 * DAY), Toml("\"7d\""), Restart),
    key("dashboard.trusted_proxies", Texts(&text::NETWORK), Toml("[]"), Restart),
    key("dashboard.proxy_header", OneOf(PROXY_HEADERS), Toml("\"x-forwarded-for\""), Restart),
    key("dashboard.tls.cert", File, Absent, Restart),
    key("dashboard.tls.key", File, Absent, Restart),
    key("history.max_memory", Size(0, 1 << 30), Toml("\"8MiB\""), Restart),
    key("history.keep", OneOf(&["disk", "memory"]), Toml("\"disk\""), Restart),
    key("history.save_every", Time(0, DAY), Toml("\"1h\""), Restart),
    key("push.name", Text(&text::PUSH_NAME), Found("the host in the url"), Restart),
    key("push.url", Text(&text::PUSH_URL), Absent, Restart),
    key("push.auth", OneOf(&["token", "bearer", "basic"]), Toml("\"token\""), Restart),
    key("push.token_file", File, Absent, Restart),
    key("push.ca", File, Absent, Restart),
    key("push.measurement", Text(&text::MEASUREMENT), Toml("\"readings\""), Restart),
    key("push.devices", Texts(&text::PATTERN), Toml("[]"), Restart),
    key("push.readings", Texts(&text::PATTERN), Toml("[]"), Restart),
    key("push.batch_size", Integer(1, 100_000), Toml("5000"), Restart),
    key("push.interval", Time(10, 10 * MINUTE), Toml("\"1s\""), Restart),
    key("push.max_buffer", Size(64 * KIB, 1 << 30), Toml("\"8MiB\""), Restart),
    key("push.gzip", Flag, Found("true, but not for a loopback host"), Restart),
    key("push.timeout", Time(100, 10 * MINUTE), Toml("\"10s\""), Restart),
    key("log.level", Text(&text::LOG_LEVEL), Toml("\"info\""), Reload),
    key("log.target", OneOf(&["auto", "journal", "stderr"]), Toml("\"auto\""), Restart),
];

/// A table that may come several times, each time under `[[path]]`. Its keys stand in [`KEYS`] once.
#[derive(Debug)]
pub struct Repeated {
    /// Its name.
    pub path: &'static str,
    /// How often at most.
    pub max: usize,
}

/// Every such table.
pub static REPEATED: &[Repeated] = &[Repeated { path: "push", max: 8 }];

/// The repeated table of that path.
#[must_use]
pub fn repeated(path: &str) -> Option<&'static Repeated> {
    REPEATED.iter().find(|table| table.path == path)
}

/// The key of that path.
#[must_use]
pub fn find(path: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.path == path)
}

/// Whether `path` is a table that holds keys.
#[must_use]
pub fn is_table(path: &str) -> bool {
    members(path).next().is_some()
}

/// The names of the keys and tables directly in the table `path` (`""`: the file), in order.
pub fn members(path: &str) -> impl Iterator<Item = &'static str> {
    let mut last = "";
    KEYS.iter().filter_map(move |key| {
        let rest = match path {
            "" => key.path,
            path => key.path.strip_prefix(path)?.strip_prefix('.')?,
        };
        let name = rest.split('.').next()?;
        let repeated = std::mem::replace(&mut last, name) == name;
        (!repeated).then_some(name)
    })
}

impl Kind {
    /// The type as the documentation calls it.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Integer(..) | OneOfIntegers(_) => "integer",
            Number(..) => "number",
            Size(..) => "size",
            Time(..) => "time",
            OneOf(_) | Text(_) => "string",
            Address => "address",
            Flag => "boolean",
            Path => "path",
            File => "file",
            Texts(_) => "list of strings",
        }
    }

    /// What is allowed, for a person.
    #[must_use]
    pub fn allowed(&self) -> String {
        match self {
            Integer(min, max) => format!("{min} to {max}"),
            Number(min, max) => format!("{min} to {max}"),
            Size(min, max) => format!("{} to {}", format_size(*min), format_size(*max)),
            Time(min, max) => {
                let text = |ms: &u64| format_time(Duration::from_millis(*ms));
                format!("{} to {}", text(min), text(max))
            }
            OneOf(choices) => {
                choices.iter().map(|c| format!("{c:?}")).collect::<Vec<_>>().join(", ")
            }
            OneOfIntegers(choices) => {
                choices.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
            }
            Address => "an IP address and port, \"127.0.0.1:7070\" or \"[::1]:7070\"".into(),
            Flag => "true or false".into(),
            Path => "the path of a file or folder".into(),
            File => "the path of a file, or credential:NAME".into(),
            Text(rule) => rule.allowed.into(),
            Texts(rule) => format!("a list of: {}", rule.allowed),
        }
    }
}
