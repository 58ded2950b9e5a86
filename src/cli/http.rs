//! Requests to a running gateway's dashboard listener.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use hyper::header::HeaderValue;
use hyper::{Request, Response, StatusCode, Uri, header};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::client::danger::{
    HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier,
};
use tokio_rustls::rustls::crypto::{
    CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature,
};
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, SignatureScheme,
};

use super::token_in;
use crate::config::Dashboard;
use crate::host::tls;

/// From the connection to the last byte.
const LIMIT: Duration = Duration::from_secs(5);

/// An answer larger than this is not from a gateway.
const MAX_BODY: usize = 4 << 20;

/// A status and a whole body.
pub(super) type Answer = (StatusCode, Bytes);

/// Where a gateway answers.
#[derive(Debug)]
pub(super) struct Gateway {
    /// `HOST:PORT`
    authority: String,
    /// The certificate that it has to show: that of its own configuration.
    certificate: Option<CertificateDer<'static>>,
    /// An API token, as a header has it.
    token: Option<HeaderValue>,
}

impl Gateway {
    /// The one with this configuration on this host.
    pub(super) fn of(dashboard: &Dashboard) -> anyhow::Result<Self> {
        // The first of the chain is the gateway's own.
        let chain = dashboard.tls.as_ref().map(|tls| tls::certificates(&tls.cert)).transpose()?;
        let certificate = chain.and_then(|chain| chain.into_iter().next());
        let authority = reachable(dashboard.listen).to_string();
        Ok(Self { authority, certificate, token: None })
    }

    /// The one at a URL such as `http://127.0.0.1:8080`.
    pub(super) fn at(url: &str) -> anyhow::Result<Self> {
        let uri: Uri = url.parse().with_context(|| format!("{url:?} is not a URL"))?;
        let Some(authority) = uri.authority().filter(|_| uri.scheme_str() == Some("http")) else {
            bail!("{url:?} cannot be used: write http://HOST:PORT");
        };
        let port = authority.port_u16().unwrap_or(80);
        Ok(Self {
            authority: format!("{}:{port}", authority.host()),
            certificate: None,
            token: None,
        })
    }

    /// Shows the token in `file` with every request.
    pub(super) fn with_token(mut self, file: &Path) -> anyhow::Result<Self> {
        let host = self.authority.rsplit_once(':').map_or("", |(host, _)| host);
        let address = host.trim_matches(['[', ']']).parse::<IpAddr>();
        let here =
            host.eq_ignore_ascii_case("localhost") || address.is_ok_and(|ip| ip.is_loopback());
        if self.certificate.is_none() && !here {
            bail!(
                "the token would cross the network to {} in the clear; use ssh -L, or run this on the \
                 gateway's machine",
                self.authority
            );
        }
        let token = token_in(file)?;
        let mut value = HeaderValue::from_str(&format!("Bearer {token}"))
            .ok()
            .with_context(|| format!("{} holds no token", file.display()))?;
        value.set_sensitive(true);
        self.token = Some(value);
        Ok(self)
    }

    /// `HOST:PORT`
    #[cfg(test)]
    pub(super) fn authority(&self) -> &str {
        &self.authority
    }

    /// Gets `path`; an answer other than 200 is an error that holds what the gateway said.
    pub(super) fn get(&self, path: &str) -> anyhow::Result<Bytes> {
        self.within(LIMIT, self.request(path), StatusCode::OK)
    }

    /// Gets `path`; `None` where there is nothing, any other answer than 200 is an error.
    pub(super) fn find(&self, path: &str) -> anyhow::Result<Option<Bytes>> {
        match self.answered(LIMIT, self.request(path))? {
            (StatusCode::OK, body) => Ok(Some(body)),
            (StatusCode::NOT_FOUND, _) => Ok(None),
            (status, body) => Err(self.refused(status, &body)),
        }
    }

    /// Posts `body` to `path` and waits `patience` longer than for any other answer; one other than
    /// 202 is an error that holds what the gateway said.
    pub(super) fn post(
        &self,
        path: &str,
        body: Vec<u8>,
        patience: Duration,
    ) -> anyhow::Result<Bytes> {
        self.within(LIMIT + patience, self.ask(path, body), StatusCode::ACCEPTED)
    }

    /// Posts `body` to `path`, as `tidegate send`, and returns the answer, whatever its status.
    pub(super) async fn ask(&self, path: &str, body: Vec<u8>) -> anyhow::Result<Answer> {
        let agent = concat!("tidegate-cli/", env!("CARGO_PKG_VERSION"));
        let (mut sender, connection) = self.connect().await?;
        let mut request = Request::post(path)
            .header(header::HOST, &self.authority)
            .header(header::USER_AGENT, agent)
            .header(header::CONTENT_TYPE, "application/json")
            .body(body.into())?;
        self.show_token(&mut request);
        whole(&mut sender, connection, request).await
    }

    fn within(
        &self,
        limit: Duration,
        answer: impl Future<Output = anyhow::Result<Answer>>,
        wanted: StatusCode,
    ) -> anyhow::Result<Bytes> {
        let (status, body) = self.answered(limit, answer)?;
        if status != wanted {
            return Err(self.refused(status, &body));
        }
        Ok(body)
    }

    fn answered(
        &self,
        limit: Duration,
        answer: impl Future<Output = anyhow::Result<Answer>>,
    ) -> anyhow::Result<Answer> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let at = &self.authority;
        runtime
            .block_on(async { tokio::time::timeout(limit, answer).await })
            .with_context(|| format!("no answer from {at} within {} s", limit.as_secs()))?
            .with_context(|| format!("no gateway can be reached at {at}; does it run?"))
    }

    /// Gets `path` and returns the answer, whatever its status.
    pub(super) async fn request(&self, path: &str) -> anyhow::Result<Answer> {
        let (mut sender, connection) = self.connect().await?;
        let request = self.getting(path)?;
        whole(&mut sender, connection, request).await
    }

    /// Gets `path` and hands every piece of the answer to `take`, until it ends or `take` fails.
    pub(super) async fn follow(
        &self,
        path: &str,
        mut take: impl FnMut(&[u8]) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let (mut sender, connection) = self.connect().await.with_context(|| {
            format!("no gateway can be reached at {}; does it run?", self.authority)
        })?;
        let request = self.getting(path)?;
        let following = async {
            let mut answer = sender.send_request(request).await?;
            let status = answer.status();
            if status != StatusCode::OK {
                let body = Limited::new(answer.into_body(), MAX_BODY).collect().await;
                let body = body.map(http_body_util::Collected::to_bytes).unwrap_or_default();
                return Err(self.refused(status, &body));
            }
            while let Some(frame) = answer.body_mut().frame().await {
                if let Some(data) = frame.context("the feed broke off")?.data_ref() {
                    take(data)?;
                }
            }
            Ok(())
        };
        tokio::pin!(following);
        tokio::select! {
            end = &mut following => end,
            _ = connection => following.await,
        }
    }

    fn getting(&self, path: &str) -> anyhow::Result<Request<Full<Bytes>>> {
        let mut request =
            Request::get(path).header(header::HOST, &self.authority).body(Full::default())?;
        self.show_token(&mut request);
        Ok(request)
    }

    fn show_token(&self, request: &mut Request<Full<Bytes>>) {
        if let Some(token) = &self.token {
            request.headers_mut().insert(header::AUTHORIZATION, token.clone());
        }
    }

    /// What the gateway's answer is as an error.
    fn refused(&self, status: StatusCode, body: &[u8]) -> anyhow::Error {
        let at = &self.authority;
        let hint = match (status, &self.token) {
            (StatusCode::UNAUTHORIZED, None) => {
                ". This gateway has users: `tidegate user token NAME --role viewer > FILE` makes a \
                 token (operator to command); name the file with --token-file FILE or in \
                 TIDEGATE_TOKEN_FILE"
            }
            (StatusCode::UNAUTHORIZED, Some(_)) => {
                ". `tidegate user list` shows which tokens there are"
            }
            _ => "",
        };
        anyhow::anyhow!("{at} answered {status}: {}{hint}", said(body))
    }

    async fn connect(&self) -> anyhow::Result<(Sender, Driving)> {
        let stream = TcpStream::connect(&self.authority).await?;
        let Some(certificate) = &self.certificate else {
            return handshake(stream).await;
        };
        let connector = TlsConnector::from(Arc::new(pinned(certificate.clone())?));
        let name = ServerName::IpAddress(stream.peer_addr()?.ip().into());
        handshake(connector.connect(name, stream).await?).await
    }
}

type Sender = SendRequest<Full<Bytes>>;
/// Must be polled for the exchange to go on; ends with the connection.
type Driving = Pin<Box<dyn Future<Output = hyper::Result<()>>>>;

async fn handshake(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
) -> anyhow::Result<(Sender, Driving)> {
    let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    Ok((sender, Box::pin(connection)))
}

/// One request and its answer, whatever its status.
async fn whole(
    sender: &mut Sender,
    connection: Driving,
    request: Request<Full<Bytes>>,
) -> anyhow::Result<Answer> {
    let exchange = async {
        let answer: Response<Incoming> = sender.send_request(request).await?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), MAX_BODY).collect().await;
        let body = body.map_err(|e| anyhow::anyhow!("the answer broke off: {e}"))?;
        anyhow::Ok((status, body.to_bytes()))
    };
    tokio::pin!(exchange);
    tokio::select! {
        answer = &mut exchange => answer,
        // With the connection over, what has arrived of the answer is all there will be.
        _ = connection => exchange.await,
    }
}

/// What the gateway said is wrong.
pub(super) fn said(body: &[u8]) -> String {
    let error = serde_json::from_slice::<serde_json::Value>(body)
        .ok()
        .and_then(|json| json.get("error")?.as_str().map(str::to_owned));
    error.unwrap_or_else(|| String::from_utf8_lossy(body).trim().to_owned())
}

/// Where to connect for a listener: the loopback address for one that listens on all.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

fn pinned(certificate: CertificateDer<'static>) -> anyhow::Result<ClientConfig> {
    let provider = Arc::new(ring::default_provider());
    let verifier = Arc::new(Pinned { certificate, provider: Arc::clone(&provider) });
    Ok(ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth())
}

/// Trusts one certificate and no authority: the gateway's own, read from the file that its
/// configuration names. Stricter than a chain, and it works for the self-signed too.
#[derive(Debug)]
struct Pinned {
    certificate: CertificateDer<'static>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if *end_entity == self.certificate {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(CertificateError::ApplicationVerificationFailure.into())
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
