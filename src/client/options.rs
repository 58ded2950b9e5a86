//! What a client must be told, and the request that follows from it.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio_rustls::rustls;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::handshake::client::Request;
use tokio_tungstenite::tungstenite::http::{HeaderValue, Uri, header};

use super::error::BadOptions;
use crate::core::ids::DeviceId;

/// The subprotocol that client and gateway must agree on.
pub const SUBPROTOCOL: &str = "tidegate.v1";

/// What a client must be told. Start from [`Options::new`].
#[derive(Debug, Clone)]
pub struct Options {
    /// The gateway: `ws://HOST:PORT` or `wss://HOST:PORT`, with a path where a proxy needs one
    /// (`/v1/devices/ID` is added).
    pub url: String,
    /// Who this is.
    pub device: String,
    /// The token that `tidegate device add` printed. `None` where the gateway asks for none, or
    /// where the TLS certificate says who this is.
    pub token: Option<String>,
    /// Which run of sequence numbers this is. `None` draws one at random, which is right whenever
    /// the numbers start at 1 again with the program.
    pub epoch: Option<u64>,
    /// The first number of this run: 1, unless `epoch` is one that was used before.
    pub first_seq: u64,
    /// What kind of device it is, for people.
    pub model: Option<String>,
    /// Its software, for people.
    pub firmware: Option<String>,
    /// Names of the commands it knows.
    pub commands: Vec<String>,
    /// For `wss://`: see [`super::tls::config`].
    pub tls: Option<Arc<rustls::ClientConfig>>,
    /// Most unacknowledged batches kept; [`super::Client::send`] waits while there are as many.
    /// The gateway's window may allow fewer on the way at a time.
    pub keep_batches: usize,
    /// The same in bytes; one batch is always kept.
    pub keep_bytes: usize,
    /// The wait after the first failure; it doubles with each one, with jitter.
    pub backoff_min: Duration,
    /// The longest wait between two attempts.
    pub backoff_max: Duration,
    /// From the TCP connection to WELCOME.
    pub connect_timeout: Duration,
    /// A gateway is given up when nothing, not even a ping, was heard from it for two of its
    /// heartbeat intervals and this time.
    pub silence_slack: Duration,
    /// The local address to connect from; `None` lets the system choose.
    pub local_address: Option<IpAddr>,
    /// Misbehaviour for tests: take at most one message from the gateway in this time.
    pub read_every: Option<Duration>,
}

impl Options {
    /// Options with the defaults: an epoch drawn at random, 256 batches or 1 MiB kept, 0.5 s to
    /// 60 s between attempts, 10 s for each.
    #[must_use]
    pub fn new(url: impl Into<String>, device: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            device: device.into(),
            token: None,
            epoch: None,
            first_seq: 1,
            model: None,
            firmware: None,
            commands: Vec::new(),
            tls: None,
            keep_batches: 256,
            keep_bytes: 1 << 20,
            backoff_min: Duration::from_millis(500),
            backoff_max: Duration::from_secs(60),
            connect_timeout: Duration::from_secs(10),
            silence_slack: Duration::from_secs(10),
            local_address: None,
            read_every: None,
        }
    }
}

/// Where and how to connect, worked out once.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) tls: Option<Arc<rustls::ClientConfig>>,
    uri: Uri,
    authorization: Option<HeaderValue>,
}

impl Target {
    /// Checks the part of `options` that says where to connect and as whom.
    pub(super) fn new(options: &Options) -> Result<Self, BadOptions> {
        let device = DeviceId::new(&options.device)?;
        let bad = |problem: &str| BadOptions::Url {
            url: options.url.clone(),
            problem: problem.to_owned(),
        };
        let base: Uri = options.url.parse().map_err(|_| bad("it is not a URL"))?;
        let secure = match base.scheme_str() {
            Some("ws") => false,
            Some("wss") => true,
            _ => return Err(bad("it starts with neither ws:// nor wss://")),
        };
        if secure && options.tls.is_none() {
            return Err(BadOptions::NoTls(options.url.clone()));
        }
        let authority = base.authority().ok_or_else(|| bad("it names no host"))?;
        if authority.as_str().contains('@') {
            return Err(bad("it holds a user name, but devices show a token"));
        }
        let path = format!("{}/v1/devices/{device}", base.path().trim_end_matches('/'));
        let uri = Uri::builder()
            .scheme(if secure { "wss" } else { "ws" })
            .authority(authority.as_str())
            .path_and_query(path)
            .build()
            .map_err(|_| bad("its path cannot be used"))?;
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = authority.port_u16().unwrap_or(if secure { 443 } else { 80 });
        let authorization = options
            .token
            .as_ref()
            .map(|token| HeaderValue::from_str(&format!("Bearer {token}")))
            .transpose()
            .map_err(|_| BadOptions::Token)?
            .map(|mut value| {
                value.set_sensitive(true);
                value
            });
        Ok(Self { host, port, tls: options.tls.clone().filter(|_| secure), uri, authorization })
    }

    /// The opening handshake's request, with a fresh key.
    pub(super) fn request(&self) -> Result<Request, tokio_tungstenite::tungstenite::Error> {
        let mut request = self.uri.clone().into_client_request()?;
        let headers = request.headers_mut();
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(SUBPROTOCOL));
        if let Some(authorization) = &self.authorization {
            headers.insert(header::AUTHORIZATION, authorization.clone());
        }
        Ok(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_device_and_its_token_become_a_request() {
        let mut options = Options::new("ws://127.0.0.1:7070/", "kiln-3");
        options.token = Some("secret".into());
        let request = Target::new(&options).unwrap().request().unwrap();
        assert_eq!(request.uri().path(), "/v1/devices/kiln-3");
        assert_eq!(request.headers()["sec-websocket-protocol"], "tidegate.v1");
        assert_eq!(request.headers()["authorization"], "Bearer secret");
        assert!(!format!("{request:?}").contains("secret"), "a token must not reach a log");
    }

    #[test]
    fn a_path_of_a_proxy_is_kept_and_ports_have_defaults() {
        let target = Target::new(&Options::new("ws://[::1]/plant/7", "a")).unwrap();
        assert_eq!((target.host.as_str(), target.port), ("::1", 80));
        assert_eq!(target.uri.path(), "/plant/7/v1/devices/a");
    }

    #[test]
    fn what_cannot_work_is_said_before_connecting() {
        for (url, words) in [
            ("http://h", "neither ws:// nor wss://"),
            ("127.0.0.1:7070", "neither ws:// nor wss://"),
            ("ws://", "not a URL"),
            ("ws://me@h", "user name"),
            ("wss://h", "needs TLS"),
        ] {
            let error = Target::new(&Options::new(url, "a")).unwrap_err().to_string();
            assert!(error.contains(words), "{url}: {error}");
        }
        assert!(Target::new(&Options::new("ws://h", "a b")).is_err());
    }
}
