//! TLS and client certificates.

use std::path::Path;
use std::sync::Arc;

use futures_util::{SinkExt, StreamExt};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyPair};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::{
    CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName,
};
use tokio_rustls::rustls::{
    ClientConfig, HandshakeKind, ProtocolVersion, RootCertStore, SupportedProtocolVersion, version,
};

use super::harness::*;
use crate::config::registry::Registry;
use crate::config::{Auth, Devices, Tls};
use crate::core::ids::DeviceId;
use crate::host::authority::Authority as Private;
use crate::host::tls;
use crate::ports::Resume;

struct Authority {
    certificate: rcgen::Certificate,
    key: KeyPair,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        Self { certificate: params.self_signed(&key).unwrap(), key }
    }

    fn issue(&self, cn: &str, name: &str) -> (rcgen::Certificate, KeyPair) {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, cn);
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.certificate, &self.key).unwrap(), key)
    }

    /// Writes a certificate for the gateway, and this authority for clients.
    fn write(&self, folder: &Path) -> Tls {
        let (certificate, key) = self.issue("gateway", "localhost");
        let path = |name: &str| folder.join(name);
        std::fs::write(path("cert.pem"), certificate.pem()).unwrap();
        std::fs::write(path("key.pem"), key.serialize_pem()).unwrap();
        std::fs::write(path("ca.pem"), self.certificate.pem()).unwrap();
        Tls { cert: path("cert.pem"), key: path("key.pem"), client_ca: None, crl: None }
    }

    fn connector_of(&self, versions: &[&'static SupportedProtocolVersion]) -> TlsConnector {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.der().clone()).unwrap();
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        TlsConnector::from(Arc::new(config))
    }

    fn connector(&self, own: Option<&(rcgen::Certificate, KeyPair)>) -> TlsConnector {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.der().clone()).unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let config = match own {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => {
                let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
                builder.with_client_auth_cert(vec![certificate.der().clone()], key).unwrap()
            }
        };
        TlsConnector::from(Arc::new(config))
    }
}

async fn connect(bench: &Bench, connector: &TlsConnector) -> std::io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(bench.addr).await?;
    let name = ServerName::try_from("localhost").unwrap();
    soon("the TLS handshake", connector.connect(name, stream)).await
}

/// The status line of the answer to a handshake for `device`; empty if there was none.
async fn status(bench: &Bench, connector: &TlsConnector, device: &str) -> String {
    let Ok(mut stream) = connect(bench, connector).await else { return String::new() };
    let asked = stream.write_all(request(device, "").as_bytes()).await;
    let mut answer = [0; 12];
    match asked {
        Ok(()) => match soon("an answer", stream.read_exact(&mut answer)).await {
            Ok(_) => String::from_utf8(answer.to_vec()).unwrap(),
            Err(_) => String::new(),
        },
        Err(_) => String::new(),
    }
}

#[tokio::test]
async fn a_session_runs_over_tls() {
    let (folder, authority) = (tempfile::tempdir().unwrap(), Authority::new());
    let tls = Some(authority.write(folder.path()));
    let mut bench = Bench::start(&Devices { tls, ..settings() }, parse(""));
    let stream = connect(&bench, &authority.connector(None)).await.unwrap();
    let mut request =
        tokio_tungstenite::tungstenite::client::IntoClientRequest::into_client_request(
            "wss://localhost/v1/devices/kiln-3",
        )
        .unwrap();
    request.headers_mut().insert("Sec-WebSocket-Protocol", "tidegate.v1".parse().unwrap());
    let (mut websocket, _) = tokio_tungstenite::client_async(request, stream).await.unwrap();
    let send = |bytes: Vec<u8>| tokio_tungstenite::tungstenite::Message::Binary(bytes.into());
    websocket.send(send(hello(Some(7)).encode())).await.unwrap();
    let opened = bench.opened().await;
    opened.welcome.send(Resume { epoch: 7, acked: 0 }).unwrap();
    soon("WELCOME", websocket.next()).await.unwrap().unwrap();
    for seq in 1..=100 {
        websocket.feed(send(readings(Some(seq), "a"))).await.unwrap();
    }
    websocket.flush().await.unwrap();
    let mut seen = 0;
    while seen < 100 {
        seen += bench.seqs(1).await.len() as u64;
        opened.link.settle(seen, seen);
    }
    let mut acked = None;
    while acked != Some(100) {
        let message = soon("an ACK", websocket.next()).await.unwrap().unwrap();
        let message = crate::core::frame::GatewayMessage::decode(&message.into_data()).unwrap();
        let crate::core::frame::GatewayMessage::Ack { seq } = message else {
            panic!("{message:?}")
        };
        acked = Some(seq);
    }
    websocket.close(None).await.unwrap();
    assert_eq!(bench.closed().await, opened.session);
}

#[tokio::test]
async fn plain_http_to_a_tls_listener_is_counted_and_dropped() {
    let (folder, authority) = (tempfile::tempdir().unwrap(), Authority::new());
    let tls = Some(authority.write(folder.path()));
    let bench = Bench::start(&Devices { tls, ..settings() }, parse(""));
    let mut stream = TcpStream::connect(bench.addr).await.unwrap();
    stream.write_all(request("kiln-3", "").as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let _ = soon("the end", stream.read_to_end(&mut answer)).await;
    until("it is counted", || bench.refused("tls") == 1).await;
}

#[tokio::test]
async fn a_client_certificate_opens_for_the_device_it_names_and_no_other() {
    let (folder, authority) = (tempfile::tempdir().unwrap(), Authority::new());
    let mut tls = authority.write(folder.path());
    tls.client_ca = Some(folder.path().join("ca.pem"));
    let settings = Devices { auth: Auth::Mtls, tls: Some(tls), ..settings() };
    let bench = Bench::start(&settings, Registry::default());
    let own = authority.connector(Some(&authority.issue("kiln-3", "kiln-3a")));
    assert_eq!(status(&bench, &own, "kiln-3").await, "HTTP/1.1 101", "by its CN");
    assert_eq!(status(&bench, &own, "kiln-3a").await, "HTTP/1.1 101", "by its DNS name");
    assert_eq!(status(&bench, &own, "kiln-4").await, "HTTP/1.1 401");
    assert_eq!(status(&bench, &authority.connector(None), "kiln-3").await, "", "no certificate");
    let stranger = Authority::new().issue("kiln-3", "kiln-3");
    assert_eq!(status(&bench, &authority.connector(Some(&stranger)), "kiln-3").await, "");
    // Once there is a registry, it decides which, even when it lists nobody.
    bench.registry.send_replace(parse("[devices.kiln-3a]\n").into());
    assert_eq!(status(&bench, &own, "kiln-3a").await, "HTTP/1.1 101");
    assert_eq!(status(&bench, &own, "kiln-3").await, "HTTP/1.1 401");
    bench.registry.send_replace(parse("").into());
    assert_eq!(status(&bench, &own, "kiln-3a").await, "HTTP/1.1 401", "nobody is listed");
}

#[tokio::test]
async fn a_reloaded_certificate_is_used_for_new_connections() {
    let (folder, authority) = (tempfile::tempdir().unwrap(), Authority::new());
    let tls = authority.write(folder.path());
    let bench = Bench::start(&Devices { tls: Some(tls), ..settings() }, parse(""));
    let presented = async || {
        let stream = connect(&bench, &authority.connector(None)).await.unwrap();
        let (_, connection) = stream.get_ref();
        let chain: &[CertificateDer<'_>] = connection.peer_certificates().unwrap();
        chain[0].as_ref().to_vec()
    };
    let before = presented().await;
    assert_eq!(before, presented().await);
    authority.write(folder.path());
    bench.tls.as_ref().unwrap().reload().unwrap();
    assert_ne!(before, presented().await);
}

/// Connects, waits for the answer to a handshake, and tells how TLS was agreed on.
async fn agreed(bench: &Bench, connector: &TlsConnector) -> (ProtocolVersion, HandshakeKind) {
    let mut stream = connect(bench, connector).await.unwrap();
    stream.write_all(request("kiln-3", "").as_bytes()).await.unwrap();
    // By then a ticket has come, too.
    soon("an answer", stream.read_exact(&mut [0; 12])).await.unwrap();
    let (_, connection) = stream.get_ref();
    (connection.protocol_version().unwrap(), connection.handshake_kind().unwrap())
}

#[tokio::test]
async fn tls_1_2_and_1_3_are_spoken_and_sessions_resumed_until_the_certificates_are_reloaded() {
    let (folder, authority) = (tempfile::tempdir().unwrap(), Authority::new());
    let tls = Some(authority.write(folder.path()));
    let bench = Bench::start(&Devices { tls, ..settings() }, parse(""));
    for (offered, spoken) in
        [(&version::TLS12, ProtocolVersion::TLSv1_2), (&version::TLS13, ProtocolVersion::TLSv1_3)]
    {
        let connector = authority.connector_of(&[offered]);
        assert_eq!(agreed(&bench, &connector).await, (spoken, HandshakeKind::Full));
        assert_eq!(agreed(&bench, &connector).await, (spoken, HandshakeKind::Resumed));
        bench.tls.as_ref().unwrap().reload().unwrap();
        assert_eq!(agreed(&bench, &connector).await, (spoken, HandshakeKind::Full));
    }
}

/// A `ClientHello` (RFC 5246 section 7.4.1.2) of the version `minor`: 2 is TLS 1.1, 3 is TLS 1.2.
fn client_hello(minor: u8) -> Vec<u8> {
    let length = |bytes: &[u8]| u8::try_from(bytes.len()).unwrap();
    let mut hello = vec![3, minor];
    hello.extend([7; 32]);
    // No session; TLS_ECDHE_ECDSA_WITH_AES_128_{GCM_SHA256,CBC_SHA}; no compression.
    hello.extend([0, 0, 4, 0xc0, 0x2b, 0xc0, 0x09, 1, 0]);
    // supported_groups: secp256r1; ec_point_formats: uncompressed; signature_algorithms.
    let extensions = [0, 10, 0, 4, 0, 2, 0, 23, 0, 11, 0, 2, 1, 0, 0, 13, 0, 6, 0, 4, 4, 3, 2, 3];
    hello.extend([0, length(&extensions)]);
    hello.extend(extensions);
    let mut message = vec![1, 0, 0, length(&hello)];
    message.extend(hello);
    let mut record = vec![22, 3, 1, 0, length(&message)];
    record.extend(message);
    record
}

#[tokio::test]
async fn tls_1_1_is_refused_with_the_alert_that_says_so() {
    let (folder, authority) = (tempfile::tempdir().unwrap(), Authority::new());
    let tls = Some(authority.write(folder.path()));
    let bench = Bench::start(&Devices { tls, ..settings() }, parse(""));
    let answer = async |minor| {
        let mut stream = TcpStream::connect(bench.addr).await.unwrap();
        stream.write_all(&client_hello(minor)).await.unwrap();
        let mut answer = [0; 7];
        soon("an answer", stream.read_exact(&mut answer)).await.unwrap();
        answer
    };
    let alert = answer(2).await;
    // Alert, fatal, protocol_version.
    assert_eq!((alert[0], alert[5], alert[6]), (21, 2, 70), "{alert:?}");
    // The same hello of TLS 1.2 is answered with a handshake message: ServerHello.
    let hello = answer(3).await;
    assert_eq!((hello[0], hello[5]), (22, 2), "{hello:?}");
}

#[tokio::test]
async fn who_does_not_go_on_with_tls_is_dropped_in_time() {
    let (folder, authority) = (tempfile::tempdir().unwrap(), Authority::new());
    let tls = Some(authority.write(folder.path()));
    let hello_timeout = std::time::Duration::from_millis(400);
    let bench = Bench::start(&Devices { hello_timeout, tls, ..settings() }, parse(""));
    let hello = client_hello(3);
    for begun in [&[][..], &hello[..20], &hello] {
        let began = std::time::Instant::now();
        let mut stream = TcpStream::connect(bench.addr).await.unwrap();
        stream.write_all(begun).await.unwrap();
        let mut answer = Vec::new();
        let _ = soon("the end", stream.read_to_end(&mut answer)).await;
        assert!(began.elapsed() >= hello_timeout * 9 / 10, "not before its time is over");
    }
    until("they are counted", || bench.refused("timeout") == 3).await;
}

#[tokio::test]
async fn a_flood_of_handshakes_that_stall_leaves_a_good_device_served() {
    let (folder, authority) = (tempfile::tempdir().unwrap(), Authority::new());
    let tls = Some(authority.write(folder.path()));
    // Longer than the test has patience: it is not their end that lets the good one in.
    let hello_timeout = 10 * PATIENCE;
    let bench = Bench::start(&Devices { hello_timeout, tls, ..settings() }, parse(""));
    let mut flood = Vec::new();
    for _ in 0..400 {
        let mut stream = TcpStream::connect(bench.addr).await.unwrap();
        stream.write_all(&client_hello(3)).await.unwrap();
        flood.push(stream);
    }
    let (_, kind) = agreed(&bench, &authority.connector(None)).await;
    assert_eq!(kind, HandshakeKind::Full);
    // Those in excess gave up their places to it and to each other.
    until("some were ended", || bench.refused("tls") > 0).await;
    assert_eq!(bench.refused("timeout"), 0);
}

/// A private authority in `folder` with certificates for the gateway and `devices`.
fn private(folder: &Path, devices: &[&str]) -> (Private, Tls) {
    let now =
        1_795_000_000.0_f64.max(std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs_f64());
    let (authority, _) = Private::open_or_new(folder, "test", now).unwrap();
    let server = authority.new_server(&["localhost".to_owned()], 30).unwrap();
    for device in devices {
        authority.new_device(&DeviceId::new(device).unwrap(), 30).unwrap();
    }
    let client_ca = Some(authority.certificate());
    (authority, Tls { cert: server.cert, key: server.key, client_ca, crl: None })
}

fn connector_as(folder: &Path, device: &str) -> TlsConnector {
    let own = |kind: &str| folder.join("devices").join(format!("{device}.{kind}"));
    let (cert, key) = (own("crt"), own("key"));
    let roots = tls::authorities(&folder.join("ca.crt")).unwrap();
    TlsConnector::from(tls::client_config(roots, Some((&cert, &key))).unwrap())
}

#[tokio::test]
async fn a_withdrawn_certificate_opens_nothing_and_what_it_has_opened_is_closed() {
    let folder = tempfile::tempdir().unwrap();
    let (authority, mut tls) = private(folder.path(), &["a", "b"]);
    tls.crl = Some(authority.list());
    let settings = Devices { auth: Auth::Mtls, tls: Some(tls), ..settings() };
    let mut bench = Bench::start(&settings, Registry::default());
    let [a, b] = ["a", "b"].map(|device| connector_as(folder.path(), device));
    let mut open = Vec::new();
    for (device, connector) in [("a", &a), ("b", &b)] {
        let stream = connect(&bench, connector).await.unwrap();
        let mut request =
            tokio_tungstenite::tungstenite::client::IntoClientRequest::into_client_request(
                format!("wss://localhost/v1/devices/{device}"),
            )
            .unwrap();
        request.headers_mut().insert("Sec-WebSocket-Protocol", "tidegate.v1".parse().unwrap());
        let (mut websocket, _) = tokio_tungstenite::client_async(request, stream).await.unwrap();
        let said = tokio_tungstenite::tungstenite::Message::Binary(hello(Some(7)).encode().into());
        websocket.send(said).await.unwrap();
        let opened = bench.opened().await;
        opened.welcome.send(Resume { epoch: 7, acked: 0 }).unwrap();
        soon("WELCOME", websocket.next()).await.unwrap().unwrap();
        open.push((websocket, opened.session));
    }
    authority.revoke(&DeviceId::new("a").unwrap()).unwrap();
    bench.tls.as_ref().unwrap().reload().unwrap();
    let (withdrawn, session) = &mut open[0];
    let last = soon("a Close frame", withdrawn.next()).await.unwrap().unwrap();
    let tokio_tungstenite::tungstenite::Message::Close(Some(close)) = last else {
        panic!("{last:?}")
    };
    assert_eq!(u16::from(close.code), 4003);
    assert!(close.reason.contains("revocation list"), "{close:?}");
    assert_eq!(bench.closed().await, *session);
    // The ticket that it was given before is of no use either.
    assert_eq!(status(&bench, &a, "a").await, "", "it is on the list");
    assert_eq!(status(&bench, &b, "b").await, "HTTP/1.1 101", "others are not");
    assert_eq!(bench.connected(), 1, "and what they had open stays");
}

/// The first bytes of a handshake: a record of 512 bytes is announced, and does not come.
const HALF_A_HELLO: [u8; 9] = [0x16, 0x03, 0x01, 0x02, 0x00, 0x01, 0x00, 0x01, 0xfc];

#[tokio::test]
async fn half_open_handshakes_of_one_address_do_not_hold_up_another() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let limits = Devices {
        tls: Some(authority.write(folder.path())),
        hello_timeout: std::time::Duration::from_secs(300),
        ..settings()
    };
    let bench = Bench::start(&limits, Registry::default());
    let mut half_open = Vec::new();
    for _ in 0..400 {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
        let mut stream = socket.connect(bench.addr).await.unwrap();
        stream.write_all(&HALF_A_HELLO).await.unwrap();
        half_open.push(stream);
    }
    let metrics = Arc::clone(&bench.metrics);
    until("all are there", || metrics.device_connections.get() == 400).await;
    assert_eq!(status(&bench, &authority.connector(None), "kiln-3").await, "HTTP/1.1 101");
}

#[tokio::test]
async fn the_header_of_a_proxy_comes_before_tls_and_from_listed_peers_only() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let tls = Some(authority.write(folder.path()));
    let header = super::proxies::header(Some([192, 0, 2, 7]));
    let connector = authority.connector(None);
    let name = ServerName::try_from("localhost").unwrap();

    let trusted = vec!["127.0.0.0/8".parse().unwrap()];
    let header_first = crate::config::ProxyHeader::ProxyProtocol;
    let proxies = crate::config::Proxies { trusted, header: header_first };
    let bench =
        Bench::start(&Devices { tls: tls.clone(), proxies, ..settings() }, Registry::default());
    let mut stream = TcpStream::connect(bench.addr).await.unwrap();
    stream.write_all(&header).await.unwrap();
    let mut stream = soon("TLS", connector.connect(name.clone(), stream)).await.unwrap();
    stream.write_all(request("kiln-3", "").as_bytes()).await.unwrap();
    let mut answer = [0; 12];
    soon("an answer", stream.read_exact(&mut answer)).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 101");
    assert_eq!(status(&bench, &connector, "kiln-4").await, "", "no header came");
    until("it is counted", || bench.refused("proxy") == 1).await;

    let bench = Bench::start(&Devices { tls, ..settings() }, Registry::default());
    let mut stream = TcpStream::connect(bench.addr).await.unwrap();
    stream.write_all(&header).await.unwrap();
    assert!(soon("TLS", connector.connect(name, stream)).await.is_err());
    until("it is counted", || bench.refused("proxy") == 1).await;
}
