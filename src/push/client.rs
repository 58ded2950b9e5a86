//! One kept-alive HTTP/1.1 connection to one server.
//!
//! Whoever answers may be slow, broken or hostile: everything is under one deadline, headers and the
//! body of an answer are bounded, and redirections are not followed (readings and the secret go where
//! the configuration says and nowhere else).

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{Buf, Bytes};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{self, HeaderValue};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::pki_types::ServerName;

use super::answer::{Answer, retry_after, words};
use crate::config::{Push, PushAuth};
use crate::host::connect::{self, ConnectError};
use crate::host::tls;

/// Bytes that the headers of an answer may take.
const MAX_HEAD: usize = 16 << 10;
/// Bytes of an answer's body that are read; of a longer one the connection is not used again.
const MAX_BODY: usize = 64 << 10;
/// Bytes of them that are kept, to be told.
const MAX_SAID: usize = 2 << 10;
/// How long the body of an answer may take after its head.
const BODY_TIME: Duration = Duration::from_secs(2);
/// A connection that was silent for longer is not trusted to be alive.
const MAX_IDLE: Duration = Duration::from_secs(50);
/// Bytes of a secret at most.
const MAX_SECRET: usize = 16 << 10;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum ClientError {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("push.ca: {0}")]
    Authority(tls::TlsError),
    #[error("push.ca is not set, and {0}")]
    NoAuthority(tls::TlsError),
    #[error("{0:?} is neither a host name nor an address that a certificate can be for")]
    ServerName(String),
    #[error("TLS with {host} failed: {source}")]
    Handshake { host: String, source: io::Error },
    #[error("push.token_file {}: {problem}", path.display())]
    Secret { path: PathBuf, problem: String },
    #[error("no answer within {} ms while waiting for {waited_for}", limit.as_millis())]
    Timeout { waited_for: &'static str, limit: Duration },
    #[error("the connection broke: {0}")]
    Http(String),
    #[error("reading files failed: {0}")]
    Task(#[from] tokio::task::JoinError),
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Client {
    push: Arc<Push>,
    connection: Option<Connection>,
    /// What was read from files, until [`Self::forget`].
    tls: Option<Arc<ClientConfig>>,
    authorization: Option<HeaderValue>,
}

#[derive(Debug)]
struct Connection {
    sender: SendRequest<Full<Bytes>>,
    driver: JoinHandle<()>,
    used: Instant,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Client {
    pub(super) fn new(push: Arc<Push>) -> Self {
        Self { push, connection: None, tls: None, authorization: None }
    }

    /// Reads the secret and the certificates again, and connects anew, before the next request.
    pub(super) fn forget(&mut self) {
        *self = Self::new(Arc::clone(&self.push));
    }

    /// Sends one request and waits for the answer, `push.timeout` at most for all of it. On an error,
    /// or when this is dropped half-way, the connection is closed.
    pub(super) async fn post(&mut self, body: Bytes, gzip: bool) -> Result<Answer, ClientError> {
        let deadline = Instant::now() + self.push.timeout;
        let kept = self.connection.take();
        if let Some(connection) = kept.filter(Connection::is_usable) {
            match self.exchange(connection, body.clone(), gzip, deadline).await {
                // A server may close what it has kept long enough in the very moment of a request.
                Err(ClientError::Http(_)) => {}
                other => return other,
            }
        }
        let connection = self.connect(deadline).await?;
        self.exchange(connection, body, gzip, deadline).await
    }

    async fn exchange(
        &mut self,
        mut connection: Connection,
        body: Bytes,
        gzip: bool,
        deadline: Instant,
    ) -> Result<Answer, ClientError> {
        let request = self.request(body, gzip).await?;
        let late = self.late("the answer");
        let response = timeout_at(deadline, connection.sender.send_request(request))
            .await
            .map_err(|_| late)?
            .map_err(|error| ClientError::Http(said_by(&error)))?;
        let (answer, whole) = read(response, deadline, self.authorization.as_ref()).await;
        if whole {
            connection.used = Instant::now();
            self.connection = Some(connection);
        }
        Ok(answer)
    }

    async fn request(
        &mut self,
        body: Bytes,
        gzip: bool,
    ) -> Result<Request<Full<Bytes>>, ClientError> {
        let url = &self.push.url;
        let mut request = Request::post(url.target.as_str())
            .header(header::HOST, url.authority.as_str())
            .header(header::USER_AGENT, concat!("tidegate/", env!("CARGO_PKG_VERSION")))
            .header(header::CONTENT_TYPE, "text/plain; charset=utf-8");
        if gzip {
            request = request.header(header::CONTENT_ENCODING, "gzip");
        }
        if let Some(authorization) = self.authorization().await? {
            request = request.header(header::AUTHORIZATION, authorization);
        }
        // The configuration's check has seen all that could be wrong with it.
        request.body(Full::new(body)).map_err(|error| ClientError::Http(error.to_string()))
    }

    async fn authorization(&mut self) -> Result<Option<HeaderValue>, ClientError> {
        if self.push.token_file.is_some() && self.authorization.is_none() {
            let push = Arc::clone(&self.push);
            self.authorization = spawn_blocking(move || authorization(&push)).await??;
        }
        Ok(self.authorization.clone())
    }

    async fn connect(&mut self, deadline: Instant) -> Result<Connection, ClientError> {
        let push = Arc::clone(&self.push);
        let url = &push.url;
        let tcp = connect::tcp(&url.host, url.port, deadline).await?;
        if !url.tls {
            return self.greet(tcp, deadline).await;
        }
        let name = ServerName::try_from(url.host.clone())
            .map_err(|_| ClientError::ServerName(url.host.clone()))?;
        let config = self.tls().await?;
        let handshake = TlsConnector::from(config).connect(name, tcp);
        let tls = timeout_at(deadline, handshake)
            .await
            .map_err(|_| self.late("the TLS handshake"))?
            .map_err(|source| ClientError::Handshake { host: url.host.clone(), source })?;
        self.greet(tls, deadline).await
    }

    async fn tls(&mut self) -> Result<Arc<ClientConfig>, ClientError> {
        if let Some(config) = &self.tls {
            return Ok(Arc::clone(config));
        }
        let ca = self.push.ca.clone();
        let config = spawn_blocking(move || {
            let authorities = match ca {
                Some(path) => tls::authorities(&path).map_err(ClientError::Authority)?,
                None => tls::system_authorities().map_err(ClientError::NoAuthority)?,
            };
            tls::client_config(authorities, None).map_err(ClientError::Authority)
        })
        .await??;
        self.tls = Some(Arc::clone(&config));
        Ok(config)
    }

    async fn greet<S>(&self, stream: S, deadline: Instant) -> Result<Connection, ClientError>
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    {
        let greeting = http1::Builder::new()
            .max_buf_size(MAX_HEAD)
            .handshake::<_, Full<Bytes>>(TokioIo::new(stream));
        let (sender, connection) = timeout_at(deadline, greeting)
            .await
            .map_err(|_| self.late("the connection"))?
            .map_err(|error| ClientError::Http(said_by(&error)))?;
        // What breaks it is told to the request that waits.
        let driver = tokio::spawn(async move { drop(connection.await) });
        Ok(Connection { sender, driver, used: Instant::now() })
    }

    fn late(&self, waited_for: &'static str) -> ClientError {
        ClientError::Timeout { waited_for, limit: self.push.timeout }
    }
}

impl Connection {
    fn is_usable(&self) -> bool {
        self.sender.is_ready() && self.used.elapsed() < MAX_IDLE
    }
}

/// Reads as much of the answer as is of use, and says whether that was all of it.
async fn read(
    response: Response<Incoming>,
    deadline: Instant,
    authorization: Option<&HeaderValue>,
) -> (Answer, bool) {
    let words = |bytes: &[u8]| words(without_secret(bytes, authorization).as_bytes());
    let (head, mut body) = response.into_parts();
    let text = |name| head.headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    let redirects = head.status.is_redirection();
    let location = text(header::LOCATION).filter(|_| redirects);
    let mut answer = Answer {
        status: head.status,
        location: location.map(|location| words(location.as_bytes())),
        retry_after: text(header::RETRY_AFTER).and_then(retry_after),
        said: String::new(),
    };
    let mut said = Vec::new();
    let mut length = 0;
    let reading = async {
        while let Some(frame) = body.frame().await {
            let Ok(frame) = frame else { return false };
            let Ok(mut data) = frame.into_data() else { continue };
            length += data.remaining();
            data.truncate(MAX_SAID.saturating_sub(said.len()));
            said.extend_from_slice(&data);
            if length > MAX_BODY {
                return false;
            }
        }
        true
    };
    let left = deadline.saturating_duration_since(Instant::now()).min(BODY_TIME);
    let whole = timeout(left, reading).await.unwrap_or(false);
    answer.said = words(&said);
    (answer, whole)
}

/// A server's words without the secret it was shown: what it says goes into the log.
fn without_secret(said: &[u8], authorization: Option<&HeaderValue>) -> String {
    let mut said = String::from_utf8_lossy(said).into_owned();
    let shown = authorization.and_then(|value| value.to_str().ok()?.split_once(' '));
    let Some((scheme, secret)) = shown else { return said };
    let pair = (scheme == "Basic").then(|| STANDARD.decode(secret).ok()).flatten();
    let pair = pair.and_then(|pair| String::from_utf8(pair).ok()).unwrap_or_default();
    let password = pair.split_once(':').map_or("", |(_, password)| password);
    for hidden in [secret, password].into_iter().filter(|hidden| !hidden.is_empty()) {
        said = said.replace(hidden, "***");
    }
    said
}

/// What a file says, as the value of `Authorization`.
fn authorization(push: &Push) -> Result<Option<HeaderValue>, ClientError> {
    let Some(path) = &push.token_file else { return Ok(None) };
    let fault = |problem: String| ClientError::Secret { path: path.clone(), problem };
    let text = std::fs::read_to_string(path).map_err(|e| fault(format!("cannot be read: {e}")))?;
    let secret = text.trim_end_matches(['\r', '\n']);
    if secret.is_empty() || secret.len() > MAX_SECRET {
        return Err(fault(format!("holds {} bytes; a secret alone belongs there", secret.len())));
    }
    let value = match push.auth {
        PushAuth::Token => format!("Token {secret}"),
        PushAuth::Bearer => format!("Bearer {secret}"),
        PushAuth::Basic => format!("Basic {}", STANDARD.encode(secret)),
    };
    let mut value = HeaderValue::from_str(&value).map_err(|_| {
        fault("holds what cannot be in a header: one line, the secret alone".into())
    })?;
    value.set_sensitive(true);
    Ok(Some(value))
}

/// hyper names the outermost error only.
fn said_by(error: &hyper::Error) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}
