//! Servers over TLS.

use tokio_rustls::TlsAcceptor;

use super::*;
use crate::config::Tls;
use crate::host::tls::TlsSlot;

/// A server's TLS with a certificate for `name`, and that certificate.
fn tls(folder: &tempfile::TempDir, name: &str) -> (TlsAcceptor, PathBuf) {
    let issued = rcgen::generate_simple_self_signed(vec![name.to_owned()]).unwrap();
    let cert = file(folder, "server.crt", &issued.cert.pem());
    let key = file(folder, "server.key", &issued.key_pair.serialize_pem());
    let slot = TlsSlot::load(&Tls { cert: cert.clone(), key, client_ca: None, crl: None }).unwrap();
    (slot.acceptor(), cert)
}

#[tokio::test]
async fn readings_go_to_a_server_whose_authority_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let (acceptor, ca) = tls(&folder, "localhost");
    let token = file(&folder, "token", "secret\n");
    let fake = Fake::start_with(Some(acceptor), |_, _| Reply::Taken).await;
    let pushing = Pushing::start(Push {
        ca: Some(ca),
        auth: PushAuth::Bearer,
        token_file: Some(token),
        ..settings(&format!("https://localhost:{}/write", fake.port))
    });
    pushing.offer("t", 0..20);
    pushing.until_counts((0, 20, 0)).await;
    assert!(fake.requests()[0].head.contains("authorization: Bearer secret\r\n"));
}

#[tokio::test]
async fn a_server_that_cannot_be_believed_gets_neither_readings_nor_the_secret() {
    let folder = tempfile::tempdir().unwrap();
    let others = tempfile::tempdir().unwrap();
    let (_, other_ca) = tls(&others, "localhost");
    for (name, own_ca) in [("localhost", false), ("elsewhere.example", true)] {
        let (acceptor, ca) = tls(&folder, name);
        let fake = Fake::start_with(Some(acceptor), |_, _| Reply::Taken).await;
        let pushing = Pushing::start(Push {
            ca: Some(if own_ca { ca } else { other_ca.clone() }),
            ..settings(&format!("https://localhost:{}/write", fake.port))
        });
        pushing.offer("t", 0..20);
        until("it is told", || pushing.state().retrying).await;
        let error = pushing.state().last_error.unwrap();
        assert!(error.starts_with("TLS with localhost failed: "), "{error}");
        assert!(fake.requests().is_empty());
        assert_eq!(pushing.counts(), (20, 0, 0));
    }
}

#[tokio::test]
async fn a_server_without_tls_where_it_is_expected_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let (_, ca) = tls(&folder, "localhost");
    let fake = Fake::start(|_, _| Reply::Taken).await;
    let url = format!("https://localhost:{}/write", fake.port);
    let push = Push { ca: Some(ca), timeout: Duration::from_secs(1), ..settings(&url) };
    let pushing = Pushing::start(push);
    pushing.offer("t", 0..1);
    until("it is told", || pushing.state().retrying).await;
    let error = pushing.state().last_error.unwrap();
    assert!(error.contains("TLS"), "{error}");
}
