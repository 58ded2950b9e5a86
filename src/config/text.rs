//! Rules for strings that have a form of their own.

use std::borrow::Cow;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::config::schema::Rule;
use crate::core::policy::Pattern;

/// Most characters in `gateway.id`.
pub const GATEWAY_ID_MAX: usize = 64;

/// `gateway.id`: one level of an MQTT topic.
pub static GATEWAY_ID: Rule =
    Rule { allowed: "1 to 64 characters without + # / and control characters", check: gateway_id };

/// `mqtt.prefix`: levels of an MQTT topic.
pub static PREFIX: Rule = Rule {
    allowed: "1 to 512 characters, levels between single / without + #, {gateway} as placeholder",
    check: prefix,
};

/// `mqtt.client_id`.
pub static CLIENT_ID: Rule = Rule {
    allowed: "1 to 256 characters without control characters, {gateway} as placeholder",
    check: |text| {
        placeholders(text)?;
        plain(text, 256)
    },
};

/// `mqtt.username`.
pub static USER_NAME: Rule = Rule {
    allowed: "1 to 1024 characters without control characters",
    check: |text| plain(text, 1024),
};

/// `mqtt.url`.
pub static BROKER_URL: Rule = Rule {
    allowed: "mqtt://HOST[:PORT] (default port 1883) or mqtts://HOST[:PORT] (8883)",
    check: |text| broker(text).map(drop),
};

/// `devices.allowed_origins`, `dashboard.allowed_origins`.
pub static ORIGIN: Rule =
    Rule { allowed: "https://HOST[:PORT] or http://HOST[:PORT], without a path", check: origin };

/// `devices.trusted_proxies` and `dashboard.trusted_proxies`.
pub static NETWORK: Rule = Rule {
    allowed: "an IP address, \"10.0.0.1\", or a network, \"10.1.0.0/16\"",
    check: |text| network(text).map(drop).ok_or_else(|| format!("{text:?} is neither")),
};

/// `dashboard.allowed_hosts`.
pub static HOST: Rule = Rule {
    allowed: "a host name without scheme and port, such as \"gateway.example\"",
    check: |text| {
        let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if !text.is_empty() && text.len() <= 253 && text.chars().all(fits) {
            return Ok(());
        }
        Err(format!("{text:?} is not a host name"))
    },
};

/// `push.name`: a label of metrics.
pub static PUSH_NAME: Rule = Rule {
    allowed: "1 to 64 characters without control characters",
    check: |text| plain(text, 64),
};

/// `push.url`.
pub static PUSH_URL: Rule = Rule {
    allowed: "http://HOST[:PORT]/PATH or https://HOST[:PORT]/PATH, with ?QUERY where the store wants one",
    check: |text| super::url::write_url(text).map(drop),
};

/// `push.measurement`.
pub static MEASUREMENT: Rule = Rule {
    allowed: "1 to 64 characters, letters, digits and _ - . : /, a letter first",
    check: measurement,
};

/// `push.devices` and `push.readings`.
pub static PATTERN: Rule = Rule {
    allowed: "names, with * for any run of characters and ? for one",
    check: |text| text.parse::<Pattern>().map(drop).map_err(|error| error.to_string()),
};

/// `log.level`.
pub static LOG_LEVEL: Rule = Rule {
    allowed: "error, warn, info, debug, trace or off; after a comma MODULE=LEVEL for one module, \
              as in \"info,tidegate::uplink=debug\"",
    check: log_level,
};

/// An address or a network.
#[must_use]
pub fn network(text: &str) -> Option<IpNet> {
    let address = || text.parse::<IpAddr>().ok().map(|ip| IpNet::from(ip.to_canonical()));
    text.parse().ok().or_else(address)
}

/// `text` with user names and passwords left out of every URL in it (RFC 3986 section 3.2.1: what
/// stands between `//` and `@`).
#[must_use]
pub fn without_credentials(text: &str) -> Cow<'_, str> {
    if !(text.contains("://") && text.contains('@')) {
        return Cow::Borrowed(text);
    }
    let mut parts = text.split("://");
    let mut safe = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        safe.push_str("://");
        let ends =
            |c: char| c.is_whitespace() || matches!(c, '/' | '?' | '#' | '"' | '\'' | '<' | '>');
        let authority = part.get(..part.find(ends).unwrap_or(part.len())).unwrap_or_default();
        // The last one: what a careless password holds of them belongs to it.
        let from = authority.rfind('@').map_or(0, |at| at + 1);
        safe.push_str(part.get(from..).unwrap_or_default());
    }
    Cow::Owned(safe)
}

/// Where a broker is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broker {
    /// Host name or IP address, without brackets.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// Whether over TLS.
    pub tls: bool,
}

/// Reads a broker's URL.
///
/// # Errors
/// What is wrong with it.
pub fn broker(url: &str) -> Result<Broker, String> {
    if url.contains('@') {
        // The text is not repeated: it may hold a password.
        return Err("holds a user name; write mqtt.username and mqtt.password_file".into());
    }
    let (tls, rest) = if let Some(rest) = url.strip_prefix("mqtts://") {
        (true, rest)
    } else if let Some(rest) = url.strip_prefix("mqtt://") {
        (false, rest)
    } else {
        return Err(format!("{url:?} does not begin with mqtt:// or mqtts://"));
    };
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    if rest.contains(['/', '?', '#']) {
        return Err(format!("{url:?} has something after the port"));
    }
    let (host, port) = host_and_port(url, rest)?;
    let port = port.unwrap_or(if tls { 8883 } else { 1883 });
    Ok(Broker { host, port, tls })
}

/// Reads `HOST[:PORT]`, which `url` holds; the host comes without brackets.
pub(super) fn host_and_port(url: &str, rest: &str) -> Result<(String, Option<u16>), String> {
    let (host, port) = if let Some(rest) = rest.strip_prefix('[') {
        let (host, port) = rest.split_once(']').ok_or(format!("{url:?} lacks a ]"))?;
        if host.parse::<std::net::Ipv6Addr>().is_err() {
            return Err(format!("{host:?} is not an IPv6 address"));
        }
        (host, port)
    } else {
        rest.split_at(rest.find(':').unwrap_or(rest.len()))
    };
    let port = match port.strip_prefix(':') {
        Some(port) => {
            Some(port.parse().ok().filter(|p| *p != 0).ok_or(format!("no port {port:?}"))?)
        }
        None if port.is_empty() => None,
        None => return Err(format!("{url:?} has something between ] and the port")),
    };
    let host_character = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_' | ':');
    if host.is_empty() || host.len() > 253 || !host.chars().all(host_character) {
        return Err(format!("{host:?} is not a host name"));
    }
    Ok((host.to_owned(), port))
}

fn measurement(text: &str) -> Result<(), String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | ':' | '/');
    if text.chars().count() > 64 {
        return Err(format!("has {} characters", text.chars().count()));
    }
    if !text.starts_with(|c: char| c.is_ascii_alphabetic()) {
        return Err(format!("{text:?} does not begin with a letter"));
    }
    match text.chars().find(|c| !fits(*c)) {
        Some(c) => Err(format!("{text:?} holds {c:?}")),
        None => Ok(()),
    }
}

fn plain(text: &str, max: usize) -> Result<(), String> {
    match text.chars().count() {
        0 => Err("is empty".into()),
        n if n > max => Err(format!("has {n} characters")),
        _ if text.chars().any(char::is_control) => Err("holds a control character".into()),
        _ => Ok(()),
    }
}

fn gateway_id(text: &str) -> Result<(), String> {
    plain(text, GATEWAY_ID_MAX)?;
    match text.chars().find(|c| matches!(c, '+' | '#' | '/')) {
        Some(c) => Err(format!("{text:?} holds {c:?}, which means something in topics")),
        None => Ok(()),
    }
}

fn prefix(text: &str) -> Result<(), String> {
    plain(text, 512)?;
    placeholders(text)?;
    if let Some(c) = text.chars().find(|c| matches!(c, '+' | '#')) {
        return Err(format!("{text:?} holds {c:?}, which is for subscriptions"));
    }
    if text.starts_with('$') {
        return Err(format!("{text:?} begins with $, which is the broker's own"));
    }
    if text.split('/').any(str::is_empty) {
        return Err(format!("{text:?} has an empty level: a / too many"));
    }
    Ok(())
}

fn placeholders(text: &str) -> Result<(), String> {
    let rest = text.replace("{gateway}", "");
    match rest.find(['{', '}']) {
        Some(_) => Err(format!("{text:?} has a placeholder other than {{gateway}}")),
        None => Ok(()),
    }
}

fn origin(text: &str) -> Result<(), String> {
    let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    match rest {
        None => Err(format!("{text:?} does not begin with https:// or http://")),
        Some(host) if host.is_empty() || host.contains(['/', '?', '#', '@', ' ', '*']) => {
            Err(format!("{text:?} is not an origin"))
        }
        Some(host) if host.chars().any(|c| c.is_ascii_uppercase()) => {
            Err(format!("{text:?} has capitals; browsers send it in small letters"))
        }
        Some(_) => Ok(()),
    }
}

fn log_level(text: &str) -> Result<(), String> {
    for part in text.split(',') {
        let (module, level) = match part.split_once('=') {
            Some((module, level)) => (Some(module), level),
            None => (None, part),
        };
        if !matches!(level, "error" | "warn" | "info" | "debug" | "trace" | "off") {
            return Err(format!("{level:?} is not a level"));
        }
        let module_character = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | ':');
        if module.is_some_and(|m| m.is_empty() || !m.chars().all(module_character)) {
            return Err(format!("{part:?} does not name a module"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broker_url_has_a_scheme_a_host_and_perhaps_a_port() {
        let broker = |url| super::broker(url).map(|b| (b.host, b.port, b.tls));
        assert_eq!(broker("mqtt://gw").unwrap(), ("gw".into(), 1883, false));
        assert_eq!(broker("mqtts://a.b:1").unwrap(), ("a.b".into(), 1, true));
        assert_eq!(broker("mqtts://[::1]/").unwrap(), ("::1".into(), 8883, true));
        assert_eq!(broker("mqtt://[fe80::1]:99").unwrap(), ("fe80::1".into(), 99, false));
        for bad in [
            "",
            "gw",
            "tcp://gw",
            "mqtt://",
            "mqtt://:1883",
            "mqtt://gw:",
            "mqtt://gw:0",
            "mqtt://gw:70000",
            "mqtt://u:p@gw",
            "mqtt://gw/x",
            "mqtt://[::1",
            "mqtt://[gw]",
            "mqtt://[::1]x",
            "mqtt://a b",
            "mqtt://::1",
            "mqtt://gw\0",
        ] {
            assert!(broker(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_password_in_the_url_is_not_repeated() {
        for url in
            ["mqtt://u:secret@gw", "tcp://u:secret@gw", "mqtt://u:se/secret@gw", "u:secret@gw"]
        {
            assert!(!broker(url).unwrap_err().contains("secret"), "{url}");
        }
    }

    #[test]
    fn credentials_are_left_out_of_every_url_and_nothing_else_is() {
        for (text, safe) in [
            ("https://u:p@a.example:1/x?y", "https://a.example:1/x?y"),
            ("to https://u@a and mqtt://u:p@b@c: no", "to https://a and mqtt://c: no"),
            ("https://a.example/@x", "https://a.example/@x"),
            ("joe@a.example", "joe@a.example"),
            ("mqtt://gw:1", "mqtt://gw:1"),
            ("\"http://u:p@[::1]:8\"", "\"http://[::1]:8\""),
        ] {
            assert_eq!(without_credentials(text), safe);
        }
    }

    #[test]
    fn a_gateway_id_is_one_level_of_a_topic() {
        for good in ["gw-1", "Halle 3", "größe", "a.b"] {
            assert_eq!(gateway_id(good), Ok(()), "{good:?}");
        }
        let long = "a".repeat(65);
        for bad in ["", "a/b", "+", "a#", "a\0", "a\n", long.as_str()] {
            assert!(gateway_id(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_prefix_is_levels_of_a_topic() {
        for good in ["t", "tidegate/{gateway}", "a/{gateway}/b"] {
            assert_eq!(prefix(good), Ok(()), "{good:?}");
        }
        for bad in ["", "/a", "a/", "a//b", "a/+", "#", "$SYS/x", "a/{device}", "a/{gateway", "a\0"]
        {
            assert!(prefix(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn an_origin_is_what_a_browser_sends() {
        for good in ["https://a.example", "http://localhost:3000", "https://[::1]:8443"] {
            assert_eq!(origin(good), Ok(()), "{good:?}");
        }
        for bad in ["", "a.example", "https://", "https://a/", "https://a/x", "https://A", "*"] {
            assert!(origin(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_level_is_a_word_or_a_list_by_module() {
        for good in ["info", "off", "info,tidegate::uplink=debug", "tidegate=trace,warn"] {
            assert_eq!(log_level(good), Ok(()), "{good:?}");
        }
        for bad in ["", "verbose", "INFO", "info,", "=debug", "tidegate::uplink", "a-b=info", "a="]
        {
            assert!(log_level(bad).is_err(), "{bad:?}");
        }
    }
}
