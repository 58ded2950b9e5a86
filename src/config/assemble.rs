//! Puts [`Settings`] together from checked values.

use std::path::PathBuf;

use super::fault::{Faults, Source};
use super::places::Places;
use super::raw::Values;
use super::{
    Auth, Commands, Dashboard, Devices, Drain, Gateway, History, Log, LogTarget, Mqtt, MqttVersion,
    PayloadFormat, Proxies, ProxyHeader, Push, PushAuth, Rate, Settings, SpoolSettings,
    Surroundings, Tls, WhenFull, text, url,
};
use crate::core::policy::Pattern;

/// The settings; where a value is faulty its default stands in, as the fault is reported already.
pub(super) fn settings(
    values: Values,
    source: &Source<'_>,
    host: &Surroundings,
    faults: &mut Faults,
) -> Settings {
    let from = From { v: &values, places: Places::new(source.file, host) };
    let id = gateway_id(&values, source, host, faults);
    Settings {
        gateway: Gateway {
            data_dir: from
                .path("gateway.data_dir")
                .or_else(|| host.state_directory.clone())
                .unwrap_or_else(|| from.places.folder().join("data")),
            grace: values.time("gateway.grace"),
            id: id.clone(),
        },
        devices: from.devices(),
        mqtt: from.mqtt(&id),
        spool: from.spool(),
        commands: from.commands(),
        dashboard: Dashboard {
            listen: values.address("dashboard.listen"),
            proxies: from.proxies("dashboard"),
            tls: from.tls("dashboard.tls"),
            allowed_hosts: values.texts("dashboard.allowed_hosts"),
            allowed_origins: values.texts("dashboard.allowed_origins"),
            users: from.path("dashboard.users"),
            session_idle: values.time("dashboard.session_idle"),
            session_max: values.time("dashboard.session_max"),
        },
        history: from.history(),
        pushes: (0..values.count("push")).filter_map(|index| from.push(index)).collect(),
        log: from.log(),
        file: source.file.to_owned(),
        warnings: Vec::new(),
        values,
    }
}

fn gateway_id(
    values: &Values,
    source: &Source<'_>,
    host: &Surroundings,
    faults: &mut Faults,
) -> String {
    let set = values.text("gateway.id");
    let fits = |name: &String| (text::GATEWAY_ID.check)(name).is_ok();
    let id = set.or_else(|| host.host_name.clone().filter(fits));
    if id.is_none() && !values.mentions("gateway.id") {
        let problem = "is not set, and the host name cannot serve";
        let allowed = Some(text::GATEWAY_ID.allowed.to_owned());
        let mut fault = source.fault(0..0, "gateway.id", problem, allowed);
        (fault.line, fault.column) = (None, None);
        faults.push(fault);
    }
    id.unwrap_or_default()
}

struct From<'a> {
    v: &'a Values,
    places: Places<'a>,
}

impl From<'_> {
    fn path(&self, key: &str) -> Option<PathBuf> {
        self.v.text(key).map(|text| self.places.path(&text))
    }

    fn tls(&self, table: &str) -> Option<Tls> {
        Some(Tls {
            cert: self.path(&format!("{table}.cert"))?,
            key: self.path(&format!("{table}.key"))?,
            client_ca: self.path(&format!("{table}.client_ca")),
            crl: self.path(&format!("{table}.crl")),
        })
    }

    fn proxies(&self, table: &str) -> Proxies {
        let header = self.v.text(&format!("{table}.proxy_header"));
        let trusted = self.v.texts(&format!("{table}.trusted_proxies"));
        Proxies {
            trusted: trusted.iter().filter_map(|network| text::network(network)).collect(),
            header: match header.as_deref() {
                Some("proxy-protocol") => ProxyHeader::ProxyProtocol,
                _ => ProxyHeader::XForwardedFor,
            },
        }
    }

    /// The schema keeps it far below what 32 bits hold.
    fn in_memory(&self, key: &str) -> usize {
        usize::try_from(self.v.size(key)).unwrap_or(usize::MAX)
    }

    fn devices(&self) -> Devices {
        let v = self.v;
        Devices {
            listen: v.address("devices.listen"),
            auth: match v.text("devices.auth").as_deref() {
                Some("mtls") => Auth::Mtls,
                Some("none") => Auth::None,
                _ => Auth::Token,
            },
            registry: self.path("devices.registry").unwrap_or_default(),
            allowed_origins: v.texts("devices.allowed_origins"),
            max_connections: v.integer("devices.max_connections"),
            max_connections_per_address: v.integer("devices.max_connections_per_address"),
            max_handshakes_per_second: v.integer("devices.max_handshakes_per_second"),
            max_handshakes_per_second_per_address: v
                .integer("devices.max_handshakes_per_second_per_address"),
            proxies: self.proxies("devices"),
            hello_timeout: v.time("devices.hello_timeout"),
            heartbeat_interval: v.time("devices.heartbeat_interval"),
            heartbeat_timeout: v.time("devices.heartbeat_timeout"),
            write_timeout: v.time("devices.write_timeout"),
            window: v.integer("devices.window"),
            max_frame: self.in_memory("devices.max_frame"),
            max_records: v.integer("devices.max_records"),
            rate: Rate {
                batches_per_second: v.number("devices.rate.batches_per_second"),
                burst: v.number("devices.rate.burst"),
                bytes_per_second: self.in_memory("devices.rate.bytes_per_second"),
                burst_bytes: self.in_memory("devices.rate.burst_bytes"),
            },
            max_unsettled: self.in_memory("devices.max_unsettled"),
            tls: self.tls("devices.tls"),
        }
    }

    fn mqtt(&self, gateway: &str) -> Mqtt {
        let v = self.v;
        let named = |key: &str| v.text(key).unwrap_or_default().replace("{gateway}", gateway);
        let broker = text::broker(&v.text("mqtt.url").unwrap_or_default());
        let broker = broker.unwrap_or(text::Broker { host: String::new(), port: 0, tls: false });
        Mqtt {
            host: broker.host,
            port: broker.port,
            tls: broker.tls,
            version: match v.integer::<u8>("mqtt.version") {
                4 => MqttVersion::V4,
                _ => MqttVersion::V5,
            },
            prefix: named("mqtt.prefix"),
            homeassistant: v.flag("mqtt.homeassistant") == Some(true),
            homeassistant_prefix: named("mqtt.homeassistant_prefix"),
            payload: match v.text("mqtt.payload").as_deref() {
                Some("senml-json") => PayloadFormat::SenmlJson,
                Some("senml-cbor") => PayloadFormat::SenmlCbor,
                Some("value") => PayloadFormat::Value,
                _ => PayloadFormat::Json,
            },
            max_inflight: v.integer("mqtt.max_inflight"),
            ack_timeout: v.time("mqtt.ack_timeout"),
            max_backoff: v.time("mqtt.max_backoff"),
            keep_alive: v.time("mqtt.keep_alive"),
            session_expiry: v.time("mqtt.session_expiry"),
            client_id: named("mqtt.client_id"),
            username: v.text("mqtt.username"),
            password_file: self.path("mqtt.password_file"),
            ca: self.path("mqtt.ca"),
            cert: self.path("mqtt.cert"),
            key: self.path("mqtt.key"),
        }
    }

    fn spool(&self) -> SpoolSettings {
        let v = self.v;
        SpoolSettings {
            max_bytes: v.size("spool.max_bytes"),
            reserve: v.size("spool.reserve"),
            max_age: v.time("spool.max_age"),
            when_full: match v.text("spool.when_full").as_deref() {
                Some("block") => WhenFull::Block,
                _ => WhenFull::DropOldest,
            },
            drain: match v.text("spool.drain").as_deref() {
                Some("live-first") => Drain::LiveFirst,
                _ => Drain::InOrder,
            },
            drain_rate: v.integer("spool.drain_rate"),
        }
    }

    fn commands(&self) -> Commands {
        let v = self.v;
        Commands {
            max_count: v.integer("commands.max_count"),
            max_age: v.time("commands.max_age"),
            max_size: self.in_memory("commands.max_size"),
            max_in_flight: v.integer("commands.max_in_flight"),
            default_ttl: v.time("commands.default_ttl"),
        }
    }

    fn history(&self) -> History {
        History {
            max_memory: self.in_memory("history.max_memory"),
            on_disk: self.v.text("history.keep").as_deref() != Some("memory"),
            save_every: self.v.time("history.save_every"),
        }
    }

    /// None without a usable URL, which is a fault.
    fn push(&self, index: usize) -> Option<Push> {
        let v = self.v;
        let key = |name: &str| format!("push[{index}].{name}");
        let patterns = |name: &str| -> Vec<Pattern> {
            v.texts(&key(name)).iter().filter_map(|text| text.parse().ok()).collect()
        };
        let url = url::write_url(&v.text(&key("url"))?).ok()?;
        Some(Push {
            name: v.text(&key("name")).unwrap_or_else(|| url.host.clone()),
            auth: match v.text(&key("auth")).as_deref() {
                Some("bearer") => PushAuth::Bearer,
                Some("basic") => PushAuth::Basic,
                _ => PushAuth::Token,
            },
            token_file: self.path(&key("token_file")),
            ca: self.path(&key("ca")),
            measurement: v.text(&key("measurement")).unwrap_or_default(),
            devices: patterns("devices"),
            readings: patterns("readings"),
            batch_size: v.integer::<u32>(&key("batch_size")) as usize,
            interval: v.time(&key("interval")),
            max_buffer: self.in_memory(&key("max_buffer")),
            gzip: v.flag(&key("gzip")).unwrap_or(!url.is_loopback()),
            timeout: v.time(&key("timeout")),
            url,
        })
    }

    fn log(&self) -> Log {
        Log {
            level: self.v.text("log.level").unwrap_or_default(),
            target: match self.v.text("log.target").as_deref() {
                Some("journal") => LogTarget::Journal,
                Some("stderr") => LogTarget::Stderr,
                _ => LogTarget::Auto,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;
    use std::time::Duration;

    fn settings(text: &str) -> Settings {
        let host = Surroundings {
            host_name: Some("host-1".into()),
            state_directory: Some("/state".into()),
            ..Surroundings::default()
        };
        Settings::parse(text, Path::new("/etc/t/tidegate.toml"), &host).unwrap()
    }

    #[test]
    fn an_empty_file_gives_the_documented_defaults() {
        let s = settings("");
        assert_eq!(s.gateway.id, "host-1");
        assert_eq!(s.gateway.data_dir, Path::new("/state"));
        assert_eq!(s.gateway.grace, Duration::from_secs(10));
        assert_eq!(s.devices.listen.to_string(), "127.0.0.1:7070");
        assert_eq!(s.devices.auth, Auth::Token);
        assert_eq!(s.devices.registry, Path::new("/etc/t/devices.toml"));
        assert!(s.devices.allowed_origins.is_empty() && s.devices.tls.is_none());
        assert_eq!(
            (s.devices.max_connections, s.devices.max_connections_per_address),
            (10_000, 1024)
        );
        assert_eq!(s.devices.hello_timeout, Duration::from_secs(5));
        assert_eq!(s.devices.heartbeat_interval, Duration::from_secs(30));
        assert_eq!(s.devices.heartbeat_timeout, Duration::from_secs(10));
        assert_eq!(
            (s.devices.window, s.devices.max_frame, s.devices.max_records),
            (64, 65_536, 1024)
        );
        let rate = Rate {
            batches_per_second: 200.0,
            burst: 400.0,
            bytes_per_second: 1 << 20,
            burst_bytes: 4 << 20,
        };
        assert_eq!(s.devices.rate, rate);
        assert_eq!(
            (s.devices.max_handshakes_per_second, s.devices.max_handshakes_per_second_per_address),
            (1000, 100)
        );
        assert_eq!(s.devices.write_timeout, Duration::from_secs(30));
        assert_eq!(
            (&s.devices.proxies, &s.dashboard.proxies),
            (&Proxies::default(), &Proxies::default())
        );
        assert_eq!(s.devices.max_unsettled, 8 << 20);
        assert_eq!((s.mqtt.host.as_str(), s.mqtt.port, s.mqtt.tls), ("127.0.0.1", 1883, false));
        assert_eq!((s.mqtt.version, s.mqtt.payload), (MqttVersion::V5, PayloadFormat::Json));
        assert_eq!(
            (s.mqtt.homeassistant, s.mqtt.homeassistant_prefix.as_str()),
            (false, "homeassistant")
        );
        assert_eq!(
            (s.mqtt.prefix.as_str(), s.mqtt.client_id.as_str()),
            ("tidegate/host-1", "tidegate-host-1")
        );
        assert_eq!(s.mqtt.max_inflight, 100);
        assert_eq!(
            (s.mqtt.ack_timeout, s.mqtt.keep_alive, s.mqtt.max_backoff),
            (Duration::from_secs(10), Duration::from_secs(30), Duration::from_secs(60))
        );
        assert_eq!((s.spool.max_bytes, s.spool.max_age), (512 << 20, Duration::from_secs(604_800)));
        assert_eq!(
            (s.spool.when_full, s.spool.drain, s.spool.drain_rate),
            (WhenFull::DropOldest, Drain::InOrder, 0)
        );
        assert_eq!(
            (s.commands.max_count, s.commands.max_size, s.commands.max_in_flight),
            (1000, 8192, 8)
        );
        assert_eq!(
            (s.commands.max_age, s.commands.default_ttl),
            (Duration::from_secs(30 * 86_400), Duration::from_secs(60))
        );
        assert_eq!(s.dashboard.listen.to_string(), "127.0.0.1:8080");
        let save_every = Duration::from_secs(3600);
        assert_eq!(s.history, History { max_memory: 8 << 20, on_disk: true, save_every });
        assert_eq!((s.log.level.as_str(), s.log.target), ("info", LogTarget::Auto));
    }

    #[test]
    fn every_value_that_is_set_arrives() {
        let s = settings(
            "[gateway]\nid = \"g\"\ndata_dir = \"d\"\ngrace = \"1m\"\n\
             [devices]\nlisten = \"[::1]:1\"\nauth = \"mtls\"\nregistry = \"/r.toml\"\n\
             allowed_origins = [\"https://a\"]\nmax_connections = 1\nmax_connections_per_address = 2\n\
             hello_timeout = \"3s\"\nheartbeat_interval = \"4s\"\nheartbeat_timeout = \"5s\"\n\
             window = 6\nmax_frame = 700\nmax_records = 8\nmax_unsettled = \"64KiB\"\n\
             tls = { cert = \"c\", key = \"k\", client_ca = \"a\", crl = \"l\" }\n\
             [mqtt]\nurl = \"mqtts://b:9\"\nversion = 4\nprefix = \"p\"\npayload = \"value\"\n\
             homeassistant = true\nhomeassistant_prefix = \"ha/{gateway}\"\n\
             client_id = \"i\"\nusername = \"u\"\npassword_file = \"p\"\nca = \"a\"\n\
             cert = \"c\"
key = \"k\"
max_inflight = 11
ack_timeout = \"12s\"
keep_alive = \"13s\"
\
             session_expiry = \"14s\"
max_backoff = \"18s\"
\
             [spool]\nmax_bytes = \"14MiB\"\nmax_age = \"15h\"\nwhen_full = \"block\"\n\
             drain = \"live-first\"\ndrain_rate = 16\n\
             [commands]\nmax_count = 18\nmax_age = \"19h\"\nmax_size = 2000\nmax_in_flight = 21\n\
             default_ttl = \"22s\"\n\
             [dashboard]\nlisten = \"127.0.0.1:17\"\ntls = { cert = \"c\", key = \"k\" }\n\
             allowed_hosts = [\"gw\"]\nallowed_origins = [\"https://o\"]\n\
             [history]\nmax_memory = \"19MiB\"\nkeep = \"memory\"\nsave_every = \"20m\"\n\
             [[push]]\nurl = \"http://127.0.0.1:8428/write\"\n\
             [[push]]\nname = \"n\"\nurl = \"https://h/w?x=1\"\nauth = \"basic\"\ntoken_file = \"t\"\n\
             ca = \"a\"\nmeasurement = \"m\"\ndevices = [\"d*\"]\nreadings = [\"r?\"]\nbatch_size = 23\n\
             interval = \"24s\"\nmax_buffer = \"1MiB\"\ngzip = false\ntimeout = \"25s\"\n\
             [log]\nlevel = \"debug\"\ntarget = \"stderr\"\n",
        );
        let at = |name: &str| Path::new("/etc/t").join(name);
        assert_eq!((s.gateway.id.as_str(), s.gateway.data_dir), ("g", at("d")));
        assert_eq!(s.gateway.grace, Duration::from_secs(60));
        let d = s.devices;
        assert_eq!((d.listen.to_string(), d.auth), ("[::1]:1".into(), Auth::Mtls));
        assert_eq!(
            (d.registry, d.allowed_origins),
            ("/r.toml".into(), vec!["https://a".to_owned()])
        );
        assert_eq!((d.max_connections, d.max_connections_per_address), (1, 2));
        assert_eq!(d.hello_timeout, Duration::from_secs(3));
        assert_eq!(d.heartbeat_interval, Duration::from_secs(4));
        assert_eq!(d.heartbeat_timeout, Duration::from_secs(5));
        assert_eq!((d.window, d.max_frame, d.max_records, d.max_unsettled), (6, 700, 8, 65_536));
        let tls = d.tls.unwrap();
        assert_eq!((tls.cert, tls.key), (at("c"), at("k")));
        assert_eq!((tls.client_ca, tls.crl), (Some(at("a")), Some(at("l"))));
        let m = s.mqtt;
        assert_eq!((m.host.as_str(), m.port, m.tls, m.version), ("b", 9, true, MqttVersion::V4));
        assert_eq!(
            (m.prefix.as_str(), m.payload, m.client_id.as_str()),
            ("p", PayloadFormat::Value, "i")
        );
        assert_eq!((m.username.as_deref(), m.password_file), (Some("u"), Some(at("p"))));
        assert_eq!((m.homeassistant, m.homeassistant_prefix.as_str()), (true, "ha/g"));
        assert_eq!((m.ca, m.cert, m.key), (Some(at("a")), Some(at("c")), Some(at("k"))));
        assert_eq!(
            (m.max_inflight, m.ack_timeout, m.keep_alive, m.max_backoff),
            (11, Duration::from_secs(12), Duration::from_secs(13), Duration::from_secs(18))
        );
        assert_eq!(m.session_expiry, Duration::from_secs(14));
        let p = s.spool;
        assert_eq!((p.max_bytes, p.max_age), (14 << 20, Duration::from_secs(54_000)));
        assert_eq!((p.when_full, p.drain, p.drain_rate), (WhenFull::Block, Drain::LiveFirst, 16));
        let commands = s.commands.desk();
        assert_eq!((commands.max_count, commands.max_size, commands.max_in_flight), (18, 2000, 21));
        assert_eq!((s.commands.max_age, commands.default_ttl), (Duration::from_secs(68_400), 22));
        assert_eq!(s.dashboard.listen.port(), 17);
        assert_eq!(s.dashboard.allowed_hosts, ["gw"]);
        assert_eq!(s.dashboard.allowed_origins, ["https://o"]);
        assert_eq!(s.dashboard.tls.unwrap().key, at("k"));
        let save_every = Duration::from_secs(1200);
        assert_eq!(s.history, History { max_memory: 19 << 20, on_disk: false, save_every });
        let [first, push] = s.pushes.as_slice() else { panic!("{:?}", s.pushes) };
        assert_eq!(
            (first.name.as_str(), first.gzip, first.auth),
            ("127.0.0.1", false, PushAuth::Token)
        );
        assert_eq!((first.batch_size, first.max_buffer), (5000, 8 << 20));
        assert_eq!(
            (first.interval, first.timeout),
            (Duration::from_secs(1), Duration::from_secs(10))
        );
        assert_eq!((first.measurement.as_str(), first.devices.len()), ("readings", 0));
        assert_eq!((push.name.as_str(), push.url.text()), ("n", "https://h/w?x=1".to_owned()));
        assert_eq!((push.auth, push.token_file.clone()), (PushAuth::Basic, Some(at("t"))));
        assert_eq!((push.ca.clone(), push.measurement.as_str()), (Some(at("a")), "m"));
        assert!(push.devices[0].matches("d1") && push.readings[0].matches("r1"));
        assert_eq!((push.batch_size, push.max_buffer, push.gzip), (23, 1 << 20, false));
        assert_eq!(
            (push.interval, push.timeout),
            (Duration::from_secs(24), Duration::from_secs(25))
        );
        assert_eq!((s.log.level.as_str(), s.log.target), ("debug", LogTarget::Stderr));
    }

    #[test]
    fn paces_and_proxies_of_the_listeners_arrive() {
        let s = settings(
            "[devices]\n\
             rate = { batches_per_second = 0.5, burst = 10, bytes_per_second = 2048, burst_bytes = 4096 }\n\
             max_handshakes_per_second = 26\nmax_handshakes_per_second_per_address = 27\n\
             trusted_proxies = [\"10.0.0.1\", \"2001:db8::/32\"]\nproxy_header = \"x-forwarded-for\"\n\
             write_timeout = \"28s\"\n\
             [dashboard]\ntrusted_proxies = [\"10.1.0.0/16\"]\nproxy_header = \"proxy-protocol\"\n",
        );
        let d = s.devices;
        let rate = Rate {
            batches_per_second: 0.5,
            burst: 10.0,
            bytes_per_second: 2048,
            burst_bytes: 4096,
        };
        assert_eq!(d.rate, rate);
        assert_eq!(
            (d.max_handshakes_per_second, d.max_handshakes_per_second_per_address),
            (26, 27)
        );
        assert_eq!(d.write_timeout, Duration::from_secs(28));
        let by = |proxies: &Proxies, address: &str| {
            proxies.tell_by(ProxyHeader::XForwardedFor, address.parse().unwrap())
        };
        assert!(by(&d.proxies, "10.0.0.1") && by(&d.proxies, "::ffff:10.0.0.1"));
        assert!(by(&d.proxies, "2001:db8:1::1") && !by(&d.proxies, "10.0.0.2"));
        let dashboard = &s.dashboard.proxies;
        assert!(dashboard.list("10.1.2.3".parse().unwrap()));
        assert!(!by(dashboard, "10.1.2.3"), "by the PROXY protocol");
    }

    #[test]
    fn a_host_without_a_usable_name_needs_one_in_the_file() {
        let file = Path::new("t.toml");
        for host_name in [None, Some("a/b".to_owned()), Some(String::new())] {
            let host = Surroundings { host_name, ..Surroundings::default() };
            let faults = Settings::parse("", file, &host).unwrap_err();
            assert!(faults.to_string().starts_with("t.toml: gateway.id: is not set"), "{faults}");
            let settings = Settings::parse("gateway.id = \"g\"", file, &host).unwrap();
            assert_eq!(settings.gateway.data_dir, Path::new("data"));
        }
    }
}
