//! From a host name to an accepted MQTT connection, under one deadline.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::either::Either;

use super::mqtt::{ConnAck, Connect, Incoming, Refusal, Wire, WireError};
use super::tls::{self, TlsError};
use crate::config::Mqtt;
use crate::host::connect::{self, ConnectError};

/// For name, TCP, TLS and CONNACK together.
pub(super) const DEADLINE: Duration = Duration::from_secs(10);

/// A password file may hold this many bytes.
const MAX_PASSWORD: usize = 65_535;

/// Bytes to or from the broker.
pub(super) type Stream = Either<TcpStream, Box<TlsStream<TcpStream>>>;

/// A connection that the broker has accepted.
#[derive(Debug)]
pub(super) struct Dialled {
    pub(super) stream: Stream,
    /// What came after CONNACK.
    pub(super) inbox: BytesMut,
    pub(super) answer: ConnAck,
}

/// What the broker is told to publish should this connection break.
#[derive(Debug, Clone)]
pub(super) struct Will {
    pub(super) topic: Bytes,
    pub(super) payload: Bytes,
    pub(super) retain: bool,
}

/// Why an attempt failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum DialError {
    #[error(transparent)]
    Tcp(#[from] ConnectError),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("TLS with {host} failed: {source}")]
    Handshake { host: String, source: io::Error },
    #[error(transparent)]
    Password(#[from] PasswordError),
    #[error("no answer within 10 s while waiting for {0}")]
    Timeout(&'static str),
    #[error("the broker refused the connection: {}", .0.reason)]
    Refused(Refusal),
    #[error("the broker allows QoS 0 only, which acknowledges nothing; tidegate needs QoS 1")]
    NoQos1,
    #[error("the broker closed the connection before it answered CONNECT")]
    Closed,
    #[error("the broker sent something else than CONNACK first")]
    NotConnAck,
    #[error(transparent)]
    Wire(#[from] WireError),
    #[error("the connection broke while waiting for CONNACK: {0}")]
    Io(#[from] io::Error),
}

/// Why the password cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("mqtt.password_file {}: {problem}", path.display())]
pub struct PasswordError {
    path: PathBuf,
    problem: String,
}

/// Connects once. `keep_session`: the broker is to keep what arrives while the gateway is away.
pub(super) async fn dial(
    settings: Arc<Mqtt>,
    will: Will,
    keep_session: bool,
) -> Result<Dialled, DialError> {
    let deadline = Instant::now() + DEADLINE;
    let password = match &settings.password_file {
        None => None,
        Some(path) => {
            let path = path.clone();
            let reading = tokio::task::spawn_blocking(move || read_password(&path));
            Some(
                within(deadline, "the password file", reading)
                    .await?
                    .map_err(io::Error::from)??,
            )
        }
    };
    let tcp = connect::tcp(bare_host(&settings.host), settings.port, deadline).await?;
    let mut stream = if settings.tls {
        Either::Right(Box::new(connect_tls(tcp, &settings, deadline).await?))
    } else {
        Either::Left(tcp)
    };

    let wire = Wire::new(settings.version);
    let mut bytes = BytesMut::with_capacity(512);
    let connect = Connect {
        client_id: settings.client_id.clone(),
        keep_alive: u16::try_from(settings.keep_alive.as_secs()).unwrap_or(u16::MAX),
        username: settings.username.clone(),
        password,
        will_topic: will.topic,
        will_payload: will.payload,
        will_retain: will.retain,
        session_expiry: keep_session
            .then(|| u32::try_from(settings.session_expiry.as_secs()).unwrap_or(u32::MAX)),
    };
    wire.connect(connect, &mut bytes)?;
    within(deadline, "CONNECT to be taken", async {
        stream.write_all(&bytes).await?;
        stream.flush().await
    })
    .await??;

    bytes.clear();
    let answer = within(deadline, "CONNACK", async {
        loop {
            match wire.decode(&mut bytes)? {
                Some(Incoming::ConnAck(answer)) => return Ok(answer),
                Some(_) => return Err(DialError::NotConnAck),
                None => {}
            }
            bytes.reserve(512);
            if stream.read_buf(&mut bytes).await? == 0 {
                return Err(DialError::Closed);
            }
        }
    })
    .await??;
    if let Some(refusal) = answer.refusal {
        return Err(DialError::Refused(refusal));
    }
    if answer.limits.max_qos == 0 {
        return Err(DialError::NoQos1);
    }
    Ok(Dialled { stream, inbox: bytes, answer })
}

/// The password in `path`: its text without the line break at the end. Blocks.
pub(super) fn read_password(path: &Path) -> Result<String, PasswordError> {
    let fault = |problem: String| PasswordError { path: path.to_owned(), problem };
    let mut text =
        std::fs::read_to_string(path).map_err(|e| fault(format!("cannot be read: {e}")))?;
    text.truncate(text.trim_end_matches(['\r', '\n']).len());
    if text.len() > MAX_PASSWORD {
        return Err(fault(format!("a password is at most {MAX_PASSWORD} bytes long")));
    }
    Ok(text)
}

/// The host as the resolver and certificates want it: an IPv6 address without brackets.
pub(super) fn bare_host(host: &str) -> &str {
    host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host)
}

async fn within<F: Future>(
    deadline: Instant,
    what: &'static str,
    future: F,
) -> Result<F::Output, DialError> {
    timeout_at(deadline, future).await.map_err(|_| DialError::Timeout(what))
}

async fn connect_tls(
    tcp: TcpStream,
    settings: &Arc<Mqtt>,
    deadline: Instant,
) -> Result<TlsStream<TcpStream>, DialError> {
    let name = tls::server_name(bare_host(&settings.host))?;
    let reading = {
        let settings = Arc::clone(settings);
        tokio::task::spawn_blocking(move || tls::client_config(&settings))
    };
    let config =
        within(deadline, "the certificate files", reading).await?.map_err(io::Error::from)??;
    let handshake = TlsConnector::from(config).connect(name, tcp);
    within(deadline, "the TLS handshake", handshake)
        .await?
        .map_err(|source| DialError::Handshake { host: settings.host.clone(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_the_file_without_its_line_break() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("password");
        std::fs::write(&path, " s3cret \r\n").unwrap();
        assert_eq!(read_password(&path).unwrap(), " s3cret ");
        let missing = read_password(&folder.path().join("none")).unwrap_err().to_string();
        assert!(missing.contains("none") && missing.contains("cannot be read"), "{missing}");
    }

    #[test]
    fn brackets_are_not_part_of_an_address() {
        assert_eq!(bare_host("[::1]"), "::1");
        assert_eq!(bare_host("broker.example"), "broker.example");
    }
}
