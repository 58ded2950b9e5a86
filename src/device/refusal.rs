//! The answers to a connection that does not become a session.

use std::fmt::Write as _;

/// Seconds after which a client that was turned away for lack of room should try again.
const RETRY_FULL: u32 = 10;
/// The same while the gateway restarts.
const RETRY_STOPPING: u32 = 5;
/// The same for an address that holds too many connections.
const RETRY_ADDRESS: u32 = 30;
/// The same where connections come too fast, or too much is under way.
const RETRY_RATE: u32 = 5;

/// Why a connection is refused before the upgrade. Where several apply, the order of checks is:
/// room (429, 503), syntax (400), path (404), method (405), version of HTTP (400), a WebSocket at
/// all (426), `Connection` and `Host` (400), the WebSocket's version (400 where it is missing, 426 where it is
/// another), key and then subprotocol (400), Origin (403), credentials (401).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// 400: not HTTP/1.1, or not a complete WebSocket handshake.
    BadHandshake(&'static str),
    /// 401: no credentials or wrong ones, or no such device: always the same.
    Unauthorized,
    /// 403: a browser on a page that may not connect.
    OriginNotAllowed,
    /// 404: nothing there.
    NoSuchPath,
    /// 405: not GET.
    MethodNotAllowed,
    /// 426: plain HTTP.
    UpgradeRequired,
    /// 426: another version of the WebSocket protocol.
    UnsupportedVersion,
    /// 429: too many connections from one address.
    TooManyFromAddress,
    /// 429: connections come too fast from one address.
    TooFast,
    /// 429: too many connections of one device that have not said HELLO.
    TooManyOfDevice,
    /// 503: no room.
    Full,
    /// 503: connections come too fast, all together, or hold too much memory before they are ready.
    Busy,
    /// 503: on the way out.
    Stopping,
    /// 400: a proxy that does not tell of its client, or a client that claims to be one.
    Proxy(&'static str),
}

impl Refusal {
    /// The label of `connections_refused_total`.
    pub(crate) fn label(&self) -> &'static str {
        match self {
            Self::BadHandshake(_) => "bad-handshake",
            Self::Unauthorized => "unauthorized",
            Self::OriginNotAllowed => "origin",
            Self::NoSuchPath => "path",
            Self::MethodNotAllowed => "method",
            Self::UpgradeRequired => "plain-http",
            Self::UnsupportedVersion => "version",
            Self::TooManyFromAddress => "address-limit",
            Self::TooFast => "address-rate",
            Self::TooManyOfDevice => "device-limit",
            Self::Full => "full",
            Self::Busy => "busy",
            Self::Stopping => "stopping",
            Self::Proxy(_) => "proxy",
        }
    }

    /// The whole HTTP response; the connection is closed after it.
    pub(crate) fn response(&self) -> Vec<u8> {
        let (status, headers) = self.status();
        let body = self.body();
        let mut text = format!("HTTP/1.1 {status}\r\n{headers}");
        if !headers.contains("Connection:") {
            text.push_str("Connection: close\r\n");
        }
        // Writing to a string cannot fail.
        let _ = write!(
            text,
            "Content-Type: text/plain; charset=utf-8\r\nContent-Length: {}\r\n\r\n{body}\n",
            body.len() + 1
        );
        text.into_bytes()
    }

    /// The status of the response.
    pub(crate) fn code(&self) -> u16 {
        match self {
            Self::BadHandshake(_) | Self::Proxy(_) => 400,
            Self::Unauthorized => 401,
            Self::OriginNotAllowed => 403,
            Self::NoSuchPath => 404,
            Self::MethodNotAllowed => 405,
            Self::UpgradeRequired | Self::UnsupportedVersion => 426,
            Self::TooManyFromAddress | Self::TooFast | Self::TooManyOfDevice => 429,
            Self::Full | Self::Busy | Self::Stopping => 503,
        }
    }

    fn status(&self) -> (&'static str, String) {
        let upgrade = "Connection: Upgrade, close\r\nUpgrade: websocket\r\n";
        let retry = |seconds: u32| format!("Retry-After: {seconds}\r\n");
        match self {
            Self::BadHandshake(_) | Self::Proxy(_) => ("400 Bad Request", String::new()),
            Self::Unauthorized => {
                ("401 Unauthorized", "WWW-Authenticate: Bearer realm=\"tidegate\"\r\n".to_owned())
            }
            Self::OriginNotAllowed => ("403 Forbidden", String::new()),
            Self::NoSuchPath => ("404 Not Found", String::new()),
            Self::MethodNotAllowed => ("405 Method Not Allowed", "Allow: GET\r\n".to_owned()),
            Self::UpgradeRequired => ("426 Upgrade Required", upgrade.to_owned()),
            Self::UnsupportedVersion => {
                ("426 Upgrade Required", format!("{upgrade}Sec-WebSocket-Version: 13\r\n"))
            }
            Self::TooManyFromAddress => ("429 Too Many Requests", retry(RETRY_ADDRESS)),
            Self::TooFast | Self::TooManyOfDevice => ("429 Too Many Requests", retry(RETRY_RATE)),
            Self::Busy => ("503 Service Unavailable", retry(RETRY_RATE)),
            Self::Full => ("503 Service Unavailable", retry(RETRY_FULL)),
            Self::Stopping => ("503 Service Unavailable", retry(RETRY_STOPPING)),
        }
    }

    /// One line that says why.
    pub(crate) fn body(&self) -> &'static str {
        match self {
            Self::BadHandshake(why) | Self::Proxy(why) => why,
            Self::Unauthorized => {
                "credentials missing or wrong: send Authorization: Bearer TOKEN, the subprotocol \
                 bearer.TOKEN, or this device's client certificate, as the gateway is set up"
            }
            Self::OriginNotAllowed => {
                "this Origin is not allowed: the operator lists the pages that may connect in \
                 devices.allowed_origins"
            }
            Self::NoSuchPath => {
                "no such path: devices connect to /v1/devices/ID, ID being 1 to 64 letters, \
                 digits, '_' or '-', a letter or digit first"
            }
            Self::MethodNotAllowed => "method not allowed: a WebSocket handshake is a GET",
            Self::UpgradeRequired => {
                "upgrade required: this is a WebSocket endpoint, subprotocol tidegate.v1"
            }
            Self::UnsupportedVersion => "unsupported Sec-WebSocket-Version: this is version 13",
            Self::TooManyFromAddress => {
                "too many connections from this address: close some or try again later"
            }
            Self::TooFast => {
                "connections from this address come too fast: wait longer between attempts"
            }
            Self::TooManyOfDevice => {
                "too many connections of this device have not said HELLO: connect once, and say it"
            }
            Self::Busy => "the gateway has too many connections to begin at once: try again later",
            Self::Full => "the gateway has no room for another connection: try again later",
            Self::Stopping => "the gateway is shutting down: try again in a moment",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::REFUSALS;

    #[test]
    fn every_refusal_is_counted_from_the_start() {
        let all = [
            Refusal::BadHandshake("why"),
            Refusal::Unauthorized,
            Refusal::OriginNotAllowed,
            Refusal::NoSuchPath,
            Refusal::MethodNotAllowed,
            Refusal::UpgradeRequired,
            Refusal::UnsupportedVersion,
            Refusal::TooManyFromAddress,
            Refusal::TooFast,
            Refusal::TooManyOfDevice,
            Refusal::Full,
            Refusal::Busy,
            Refusal::Stopping,
            Refusal::Proxy("why"),
        ];
        let labels = all.iter().map(Refusal::label).chain(["timeout", "tls"]);
        assert!(labels.eq(REFUSALS), "in the order of the list in metrics");
        for refusal in all {
            assert!(refusal.status().0.starts_with(&refusal.code().to_string()), "{refusal:?}");
        }
    }
}
