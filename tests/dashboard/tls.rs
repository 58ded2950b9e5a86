//! The listener with a certificate.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tidegate::config;
use tidegate::dashboard::{self, Fleet};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto};

use super::support::*;

/// Writes a new certificate and its key.
fn issue(folder: &Path) -> CertificateDer<'static> {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".into()]).unwrap();
    std::fs::write(folder.join("cert.pem"), made.cert.pem()).unwrap();
    std::fs::write(folder.join("key.pem"), made.key_pair.serialize_pem()).unwrap();
    made.cert.der().clone()
}

/// The status line of the answer, or why there is none.
async fn ask(address: SocketAddr, trusted: &CertificateDer<'static>) -> Result<String, String> {
    let mut roots = RootCertStore::empty();
    roots.add(trusted.clone()).unwrap();
    let provider = Arc::new(crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let connector = TlsConnector::from(Arc::new(config));
    let mut stream = connector.connect(name, stream).await.map_err(|error| error.to_string())?;
    let head = "GET /api/v1/status HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.map_err(|error| error.to_string())?;
    Ok(answer.lines().next().unwrap_or_default().to_owned())
}

#[tokio::test]
async fn the_dashboard_speaks_tls_and_takes_a_new_certificate_while_running() {
    let folder = tempfile::tempdir().unwrap();
    let first = issue(folder.path());
    let tls = config::Tls {
        cert: folder.path().join("cert.pem"),
        key: folder.path().join("key.pem"),
        client_ca: None,
        crl: None,
    };
    let settings = config::Dashboard { tls: Some(tls), ..dashboard() };
    let handle = dashboard::start(&settings, context(Fleet::new())).unwrap();
    let address = handle.local_addr();
    assert_eq!(ask(address, &first).await.as_deref(), Ok("HTTP/1.1 200 OK"));

    let second = issue(folder.path());
    std::fs::write(folder.path().join("key.pem"), "nonsense").unwrap();
    let error = handle.reload_certificates().unwrap_err().to_string();
    assert!(error.contains("dashboard.tls") && error.contains("key.pem"), "{error}");
    assert_eq!(ask(address, &first).await.as_deref(), Ok("HTTP/1.1 200 OK"));

    let third = issue(folder.path());
    handle.reload_certificates().unwrap();
    assert_eq!(ask(address, &third).await.as_deref(), Ok("HTTP/1.1 200 OK"));
    assert!(ask(address, &second).await.is_err());
    assert!(handle.stop(Duration::from_secs(5)).await);
}
